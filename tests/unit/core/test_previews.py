"""Which host names belong to creations, and to nothing else."""

import pytest

from serve_app.core.domain.creations import preview_label
from serve_app.core.domain.ids import new_creation_id
from serve_app.core.services.previews import is_preview_host, previewed_creation

DOMAIN = "pages.example.org"


@pytest.mark.parametrize("form", ["{}", "{}:8000", "{}.", "{}.:443"])
def test_a_creations_host_is_known_however_it_is_written(form: str) -> None:
    creation = new_creation_id()
    for name in (preview_label(creation), preview_label(creation).upper()):
        host = form.format(f"{name}.{DOMAIN}")
        assert previewed_creation(host, DOMAIN) == creation
        assert is_preview_host(host, DOMAIN)


@pytest.mark.parametrize("host", [f"x.{DOMAIN}", f"cre-x.{DOMAIN}:80", f"a.b.{DOMAIN}", f".{DOMAIN}"])
def test_what_else_is_below_the_domain_is_nobodys(host: str) -> None:
    assert is_preview_host(host, DOMAIN)
    assert previewed_creation(host, DOMAIN) is None


@pytest.mark.parametrize("host", [DOMAIN, f"{DOMAIN}:80", f"x{DOMAIN}", "example.org", "[::1]:8000", "", None])
def test_other_hosts_are_the_applications(host: str | None) -> None:
    assert not is_preview_host(host, DOMAIN)
    assert previewed_creation(host, DOMAIN) is None
