"""The ground floor: state and I/O everybody shares. It is handed its settings, it never reads them."""
