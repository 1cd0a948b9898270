"""What the proxy answers besides `egress_denied`: calls it cannot read, and hosts that do not answer."""

from serve_app.core.errors import InvalidRequestError, UnavailableError


class BadProxyRequestError(InvalidRequestError):
    """What came from inside is no HTTP, or nothing a proxy is asked."""

    code, status = "bad_proxy_request", 400


class HostFailedError(UnavailableError):
    """An allowed host does not resolve, cannot be connected to, or does not answer with HTTP."""

    code, status = "egress_host_failed", 502
