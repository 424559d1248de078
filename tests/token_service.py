"""A token service whose tokens a real registry believes. Source: distribution's token authentication specification."""

from __future__ import annotations

import base64
import json
import subprocess
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from local_server import LocalServer, QuietHandler

SERVICE, ISSUER = "registry.test", "issuer.test"


class TokenService(LocalServer):
    """Gives whoever has the login what they ask for, and everybody else what they may read."""

    def __init__(self, folder: Path, user: str = "ada", password: str = "lovelace") -> None:
        self.certificate = folder / "issuer.pem"
        self._key = folder / "issuer.key"
        argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(self._key)]
        argv += ["-out", str(self.certificate), "-days", "2", "-subj", f"/CN={ISSUER}"]
        subprocess.run(argv, check=True, capture_output=True, timeout=30)
        self._login = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        self.life = 300
        """Seconds that tokens are good for, as far as the registry is concerned."""
        self.said_life: int | None = None
        """Seconds that we say they are good for; None for the truth."""
        self.asked: list[tuple[tuple[str, ...], str]] = []
        """Scopes, and the Authorization header."""
        service = self

        class Handler(QuietHandler):
            def do_GET(self) -> None:  # noqa: N802
                scopes = tuple(parse_qs(urlsplit(self.path).query).get("scope", []))
                login = self.headers.get("Authorization", "")
                service.asked.append((scopes, login))
                body = json.dumps(service.answer(scopes, known=login == service._login)).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        super().__init__(Handler)
        self.start()

    @property
    def configuration(self) -> str:
        """The line of a registry's configuration that makes it believe us."""
        realm = f"{self.url}/token"
        return (
            f"auth: {{token: {{realm: '{realm}', service: {SERVICE}, issuer: {ISSUER}, "
            f"rootcertbundle: '{self.certificate}'}}}}"
        )

    def answer(self, scopes: tuple[str, ...], *, known: bool) -> dict[str, object]:
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":")
            granted = [action for action in actions.split(",") if known or action == "pull"]
            access.append({"type": kind, "name": name, "actions": granted})
        now = int(time.time())
        claims = {"iss": ISSUER, "sub": "ada", "aud": SERVICE, "iat": now, "nbf": now - 60, "jti": str(len(self.asked))}
        token = self._signed({**claims, "exp": now + self.life, "access": access})
        return {"token": token, "expires_in": self.life if self.said_life is None else self.said_life}

    def _signed(self, claims: dict[str, object]) -> str:
        pem = self.certificate.read_text().strip().splitlines()
        header = {"typ": "JWT", "alg": "RS256", "x5c": ["".join(pem[1:-1])]}
        signed = ".".join(_packed(json.dumps(part).encode()) for part in (header, claims))
        argv = ["openssl", "dgst", "-sha256", "-sign", str(self._key)]
        signature = subprocess.run(argv, input=signed.encode(), check=True, capture_output=True, timeout=30).stdout
        return f"{signed}.{_packed(signature)}"


def _packed(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
