"""What the errors of file systems at URLs mean: whether a repetition may heal them, and what a user can do."""

from __future__ import annotations

import re
from typing import NamedTuple

from cxrdist.data.storage.retries import LIMIT_VARIABLE, NoAnswer, in_minutes

SHOWN_CHARACTERS = 120
# By name, since botocore, aiohttp and gcsfs may not be installed.
UNREACHABLE = {
    "ClientConnectionError",
    "ClientPayloadError",
    "ConnectionError",
    "HTTPClientError",
    "IncompleteRead",
    "IncompleteReadError",
    "OddAnswer",
    "ResponseParserError",
    "TimeoutError",
}
NEVER_HEALS = {"SSLError", "ProxyConnectionError", "InvalidProxiesConfigError"}
BUSY = {
    "SlowDown",
    "InternalError",
    "ServiceUnavailable",
    "RequestTimeout",
    "Throttling",
    "ThrottlingException",
}
BUSY |= {"429", "500", "502", "503", "504"}
UNAUTHORISED = {"NoCredentialsError", "PartialCredentialsError", "PermissionError", "ProfileNotFound"}
UNAUTHORISED |= {
    "CredentialRetrievalError",
    "TokenRetrievalError",
    "SSOTokenLoadError",
    "UnauthorizedSSOTokenError",
}
EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}


class Settings(NamedTuple):
    """Where the credentials and the address of a store are set, in brackets; empty if that is not known."""

    credentials: str = ""
    address: str = ""
    renewal: str = ""


_SETTINGS = {
    "s3": Settings(
        " (AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)",
        " (AWS_ENDPOINT_URL)",
        "; those of a profile with credential_process, role_arn or SSO in ~/.aws/config are renewed in time",
    ),
    "gcs": Settings(" (GOOGLE_APPLICATION_CREDENTIALS)"),
}


def settings_of(kind: str) -> Settings:
    """``kind``: s3, gcs, or "" for others."""
    return _SETTINGS.get(kind, Settings())


def code_of(error: BaseException) -> str:
    """The S3 or HTTP code of an error, such as ``NoSuchBucket`` or ``416``; "" if it has none."""
    response = getattr(error.__cause__, "response", None)
    if isinstance(response, dict):
        return str(response.get("Error", {}).get("Code", ""))
    return str(getattr(error, "status", None) or getattr(error, "code", None) or "")


def reason_to_repeat(error: Exception) -> str | None:
    """What is wrong, in a few words, if the same request may succeed later; else None."""
    code, names = code_of(error), _names(error)
    if code in BUSY:
        response = getattr(error.__cause__, "response", None)
        status = (
            response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else None
        )
        return code if status is None or code == str(status) else f"{status} {code}"
    return _cause(error) if names & UNREACHABLE and not names & NEVER_HEALS else None


def explained(error: Exception, kind: str, no_answer: NoAnswer | None = None) -> str:
    """The error of a file system, and what to do, in one line. ``kind``: s3, gcs, or "" for others."""
    cause, names, settings = _cause(error), _names(error), settings_of(kind)
    again = "run the same command again"
    if code_of(error) in EXPIRED:
        return f"{cause}: renew the credentials{settings.credentials} and {again}{settings.renewal}"
    if names & UNAUTHORISED or code_of(error) in ("401", "403"):
        rights = "and that they allow to list, read and write there"
        return f"{cause}: check the credentials{settings.credentials}, {rights}"
    if no_answer is not None and no_answer.retries:
        times = "1 retry" if no_answer.retries == 1 else f"{no_answer.retries} retries"
        cause = f"{cause}, still after {times} in {in_minutes(no_answer.after_s)} ({LIMIT_VARIABLE})"
    if names & UNREACHABLE:
        return f"{cause}: check the address{settings.address} and the network, and {again}"
    return f"{cause}: check the address, and {again}"


def _names(error: Exception) -> set[str]:
    return {cls.__name__ for cls in type(error).__mro__}


def _cause(error: Exception) -> str:
    cause = " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())
    cause = cause.partition(": <")[0]  # aiohttp appends the Python object of the error
    # Of a long URL with a query only the server is shown, and no user and password before it.
    cause = re.sub(r"(https?://)(?:[^/\s\"']*@)?([^/\s\"']+)[^\s\"']*", r"\1\2", cause).rstrip(".")
    return f"{cause[:SHOWN_CHARACTERS]}..." if len(cause) > SHOWN_CHARACTERS else cause
