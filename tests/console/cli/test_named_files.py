"""Options that name a file: another kind of file is refused in a sentence, at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.console.conftest import Run
from tests.store.test_environment import KINDS

TLS = Path(__file__).parents[2] / "rpc"
CERT, KEY = TLS / "certificate.pem", TLS / "key.pem"
CHAIN = f"--tls-cert {CERT} --tls-key {KEY}"
VKEY = "ann+1a7f0b0b+ASyEithmTuZR5IlsE6hKiaKWSspet3qLiB5g3tXIG06d"
REMOTE = "everlog://localhost:1/x"

OPTIONS = {
    "--config": "serve --config x",
    "--env-file": "--env-file x status",
    "--tls-cert": f"serve --tls-cert x --tls-key {KEY}",
    "--tls-key": f"serve --tls-cert {CERT} --tls-key x",
    "--tls-client-ca": f"serve {CHAIN} --tls-client-ca x",
    "--tls-client-crl": f"serve {CHAIN} --tls-client-ca {CERT} --tls-client-crl x",
    "--tokens": "serve --tokens x",
    "serve --token-file": "serve --token-file x",
    "--token-file": f"-u {REMOTE} --token-file x status",
    "?token-file=": f"-u {REMOTE}?token-file=x status",
    "?ca=": f"-u {REMOTE}?ca=x status",
    "?cert=": f"-u {REMOTE}?cert=x&key={KEY} status",
    "?key=": f"-u {REMOTE}?cert={CERT}&key=x status",
    "--signing-key": "serve --signing-key x",
    "--metrics-token": "serve --metrics 127.0.0.1:0 --metrics-token-file x",
    "--console-oidc-secret": "serve --console --console-oidc-client a --console-oidc-issuer"
    " https://id.example.com --console-oidc-secret-file x",
    "master key": "check",
    "verify": f"verify x --signed-by {VKEY}",
    "schema": "-u file:new.db --schema-file x load",
}
SECRET = {
    *("--tls-key", "--tokens", "serve --token-file", "--token-file", "?token-file=", "?key="),
    *("--signing-key", "--metrics-token", "--console-oidc-secret", "master key"),
}


@pytest.mark.timeout(30)
@pytest.mark.parametrize("option", OPTIONS)
def test_another_kind_of_file_is_a_sentence(
    everlog: Run, books: Path, here: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    if option == "master key":
        monkeypatch.setenv("EVERLOG_MASTER_KEY_FILE", "x")
    x = here / "x"
    for kind, (make, _) in KINDS.items():
        make(x)
        ended = everlog(*OPTIONS[option].split())
        assert ended.code in (1, 2), (kind, ended)
        assert " x: " in f" {ended.err}" or "'x'" in ended.err, (kind, ended.err)
        assert "Traceback" not in ended.err
        assert not (here / "new.db").exists()
        if os.path.lexists(x):
            x.rmdir() if x.is_dir() else x.unlink()
    x.write_text("EVERLOG_TOKEN=sesame")
    x.chmod(0o644)
    ended = everlog(*OPTIONS[option].split())
    shown = "x: " in ended.err and "can be read by others (mode 0644): expected a file that only" in ended.err
    assert shown == (option in SECRET or option == "--env-file")
    assert (ended.code == 0) == (option == "--env-file")  # a warning: the file is not everlog's alone
    assert "sesame" not in ended.err or option == "schema"
    monkeypatch.delenv("EVERLOG_MASTER_KEY_FILE", raising=False)
