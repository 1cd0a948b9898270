"""Reading the name a TLS client asks for, from honest and from hostile hellos."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.sandbox.egress.hello import MOST_BYTES, Hello, HelloReader, NotHelloError, is_tls
from tests.unit.actors.sandbox.egress.hellos import extension, handshake, hello, in_records, real_hello, server_name


def read(data: bytes) -> Hello | None:
    return HelloReader().feed(data)


def test_what_openssl_sends() -> None:
    assert read(real_hello("PyPI.org")) == Hello("pypi.org", has_ech=False)
    assert read(real_hello(None)) == Hello(None, has_ech=False)
    assert is_tls(real_hello("pypi.org"))


def test_bytes_after_the_hello_do_not_matter() -> None:
    assert read(real_hello("pypi.org") + b"early data") == Hello("pypi.org", has_ech=False)


@pytest.mark.parametrize("size", [8, 9, 50, 100])
def test_a_hello_in_many_records(size: int) -> None:
    cut = in_records(handshake(real_hello("pypi.org")), size)
    assert read(cut) == Hello("pypi.org", has_ech=False)


@pytest.mark.parametrize("step", [1, 2, 7, 100])
def test_a_hello_in_many_pieces(step: int) -> None:
    reader, whole = HelloReader(), in_records(handshake(real_hello("pypi.org")), 60)
    answers = [reader.feed(whole[at : at + step]) for at in range(0, len(whole), step)]
    assert answers[:-1] == [None] * (len(answers) - 1)
    assert answers[-1] == Hello("pypi.org", has_ech=False)


def test_an_encrypted_hello_is_noted_and_its_outer_name_read() -> None:
    assert read(hello(server_name(b"outer.example"), extension(0xFE0D, b"x" * 50))) == Hello(
        "outer.example", has_ech=True
    )


def test_one_dot_at_the_end_is_the_same_name() -> None:
    assert read(hello(server_name(b"a.example."))) == Hello("a.example", has_ech=False)


@pytest.mark.parametrize(
    "data",
    [
        hello(server_name(b"a.example", b"b.example")),
        hello(server_name(b"a.example"), server_name(b"b.example")),
        hello(server_name(b"a.example", kind=1)),
        hello(server_name()),
        hello(extension(0, b"")),
        hello(extension(0, b"\x00\xff\x00")),
        hello(server_name("münchen.example".encode())),
        hello(server_name(b"a.example"), after=b"x"),
        hello(b"\x00\x00\xff\xff"),
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x80\x2e\x01\x03\x01",  # an SSLv2 hello
        b"\x16\x02\x01\x00\x05hello",
        b"\x16\x03\x01\x00\x00",  # an empty record
        b"\x16\x03\x01\xff\xff" + b"x" * 100,
        b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",  # the server's hello
        b"\x16\x03\x01\x00\x04\x01" + (MOST_BYTES + 1).to_bytes(3),
        b"\x16\x03\x01\x00\x01\x01" * 65,
        b"\x00",
    ],
)
def test_hostile_ones(data: bytes) -> None:
    with pytest.raises(NotHelloError):
        read(data)


@given(st.binary(max_size=400))
def test_any_bytes_end_in_one_of_three_ways(data: bytes) -> None:
    try:
        read(data)
        read(in_records(b"\x01" + len(data).to_bytes(3) + data, 64) if data else b"")
    except NotHelloError:
        pass


@given(st.integers(min_value=0, max_value=250), st.integers(min_value=0, max_value=255))
def test_one_wrong_byte_never_makes_another_name_of_it(at: int, value: int) -> None:
    data = bytearray(hello(server_name(b"a.example"), extension(23, b"")))
    data[at % len(data)] = value
    try:
        found = read(bytes(data))
    except NotHelloError:
        return
    assert found is None or found.name is None or len(found.name) <= len("a.example")
