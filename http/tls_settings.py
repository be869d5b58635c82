"""Settings of TLS on the main door, and what they make."""

import ssl
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from transfer_engine.http.configuration_file import ConfigurationError


class TlsSettings(BaseModel):
    """The main door's certificate; without this section it speaks plain HTTP. The express door always does."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    certificate_file: Path
    """The certificate, and those of the authorities between it and a root (PEM)."""
    key_file: Path
    """Its private key (PEM), without a password."""


def open_tls(settings: TlsSettings) -> ssl.SSLContext:
    """Return what TLS connections are accepted by: TLS 1.2 at least, HTTP/2 or HTTP/1.1 as the client likes best.

    Raises:
        ConfigurationError: the files can't be read or used; the message names the setting.
    """
    for name, path in (("certificate_file", settings.certificate_file), ("key_file", settings.key_file)):
        try:
            path.read_bytes()  # OpenSSL does not say which file it can't read
        except OSError as error:
            raise ConfigurationError(f"tls.{name} {path}: it can't be read: {error.strerror}") from None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.certificate_file, settings.key_file, password=_refuse_password)
    except ssl.SSLError as error:
        reason = (error.reason or "no PEM").replace("_", " ").lower()
        raise ConfigurationError(
            f"tls.certificate_file {settings.certificate_file} and tls.key_file {settings.key_file}: "
            f"they are no certificate and its key: {reason}"
        ) from None
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


def _refuse_password() -> str:
    """Keep OpenSSL from asking a terminal."""
    raise ConfigurationError("tls.key_file is encrypted: give a key without a password")
