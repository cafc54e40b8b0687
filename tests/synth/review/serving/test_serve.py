"""`cxrdist review serve` and `readers` as commands: what they print, how they end, and what they refuse."""

from __future__ import annotations

import io
import signal
import socket
import sqlite3
import sys
import urllib.request
from pathlib import Path

import pytest

from cxrdist.cli.main import dispatch
from cxrdist.config.parser import parse
from cxrdist.errors import UserError
from cxrdist.synth.review.serving import serve as serve_module
from cxrdist.synth.review.serving.options import ServeOptions
from cxrdist.synth.review.serving.serve import address_of, listen, names_of, serve, token_of
from tests.helpers.review_server import ReviewServer, with_readers
from tests.helpers.review_sets import synthetic_copy


def options(*words: str) -> ServeOptions:
    return parse(ServeOptions, words, prog="cxrdist review serve", example="", positional=("set",))


# ---- what is refused


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--share-real", "1"], "--share-real: must be between 0 and 1, not 1.0"),
        (["--overlap", "1.1"], "--overlap: must be from 0 to 1"),
        (["--limit", "0"], "--limit: must be 1 or more"),
        (["--port", "65536"], "--port: must be from 0 to 65535"),
        (["--tasks", "curate,curate"], "--tasks: needs curate, blinded or both, each once"),
        (["--tasks", "blind"], "--tasks: 'blind' is not a choice; did you mean 'blinded'?"),
        (["--token-file", "token"], "--token-file: is of no use at 127.0.0.1"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_options_out_of_range(words: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        options("set", *words)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("host", "is_local"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
    ],
)
def test_what_is_local(host: str, is_local: bool) -> None:
    assert options("set", "--host", host).is_local == is_local
    assert options("set", "--host", "reading.example.org").is_local is False


def test_a_token_is_drawn_or_read(tmp_path: Path) -> None:
    drawn = {token_of(options("set", "--host", "0.0.0.0")) for _ in range(2)}
    assert len(drawn) == 2 and {len(token) for token in drawn} == {32}
    file = tmp_path / "token"
    file.write_text("0123456789abcdef\n")
    assert token_of(options("set", "--host", "0.0.0.0", "--token-file", str(file))) == "0123456789abcdef"
    file.write_text("short\n")
    with pytest.raises(UserError, match="holds 5 characters, and a token needs 16"):
        token_of(options("set", "--host", "0.0.0.0", "--token-file", str(file)))
    with pytest.raises(UserError, match="cannot be read"):
        token_of(options("set", "--host", "0.0.0.0", "--token-file", str(tmp_path / "none")))


def test_names_of_the_server() -> None:
    assert names_of(options("set", "--names", "reading.example.org")) == {"localhost", "reading.example.org"}
    beyond = names_of(options("set", "--host", "10.1.2.3"))
    assert beyond == {"localhost", "10.1.2.3", socket.gethostname()}


def test_a_port_in_use_is_told(tmp_path: Path, tiny_set: Path, synthetic_set: Path) -> None:
    with listen(options("set", "--port", "0")) as other:
        port = other.getsockname()[1]
        assert other.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        assert address_of(options("set"), other) == f"http://127.0.0.1:{port}/"
        store = tmp_path / "review.sqlite"
        words = [str(synthetic_set), "--shards", str(tiny_set), "--store", str(store), "--port", str(port)]
        with pytest.raises(
            UserError, match=rf"cannot listen at 127\.0\.0\.1, port {port} .*choose one with --port"
        ):
            serve(options(*words))
        assert not store.exists()


def test_an_unknown_host_is_told() -> None:
    with pytest.raises(UserError, match=r"no\.such\.host\.invalid is no address of this machine"):
        listen(options("set", "--host", "no.such.host.invalid"))


def test_sets_and_stores_that_do_not_fit(tmp_path: Path, tiny_set: Path, synthetic_set: Path) -> None:
    store = tmp_path / "review.sqlite"
    rest = ["--shards", str(tiny_set), "--port", "0", "--store"]
    with pytest.raises(UserError, match="none"):
        serve(options(str(tmp_path / "none"), *rest, str(store)))
    with pytest.raises(UserError, match="is a set of real images"):
        serve(options(str(tiny_set), *rest, str(store)))
    with pytest.raises(UserError, match="would lie in a shard set"):
        serve(options(str(synthetic_set), *rest, str(synthetic_set / "review.sqlite")))
    assert not store.exists()
    store.write_text("no database\n" * 100)
    with pytest.raises(UserError, match="not a store of readings"):
        serve(options(str(synthetic_set), *rest, str(store)))


def test_another_synthetic_set_is_refused(
    tmp_path: Path, tiny_set: Path, synthetic_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve_module.uvicorn.Server, "run", lambda self, sockets: None)
    rest = ["--shards", str(tiny_set), "--port", "0", "--store", str(tmp_path / "review.sqlite")]
    serve(options(str(synthetic_set), *rest))
    serve(options(str(synthetic_set), *rest))
    other = synthetic_copy(tiny_set, tmp_path / "other", most=2)
    with pytest.raises(UserError, match=r"holds a reading of another synthetic set .*another --store"):
        serve(options(str(other), *rest))


def test_what_may_tell_the_origin_is_warned_of(
    tmp_path: Path, tiny_set: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(serve_module.uvicorn.Server, "run", lambda self, sockets: None)
    other = synthetic_copy(tiny_set, tmp_path / "other", encoding="jpg")
    rest = ["--shards", str(tiny_set), "--port", "0", "--store", str(tmp_path / "review.sqlite")]
    serve(options(str(other), *rest))
    assert "readers may see which ones were compressed" in capsys.readouterr().err
    serve(options(str(other), *rest, "--tasks", "curate"))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["starlette", "uvicorn"])
def test_what_is_not_installed_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [m for m in sys.modules if m.startswith("cxrdist.synth.review.serving.")]:
        monkeypatch.delitem(sys.modules, module)
    for module in [m for m in sys.modules if m.partition(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"{name} is not installed: pip install 'cxrdist\[review\]'"):
        dispatch(["review", "serve", "set"])


# ---- readers


def test_readers_are_added_listed_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = str(tmp_path / "review.sqlite")

    def said(*words: str) -> str:
        assert not dispatch(["review", "readers", *words, "--store", store])
        return capsys.readouterr().out.replace(store, "STORE")

    monkeypatch.setattr("sys.stdin", io.StringIO("correct horse\n"))
    assert said("add", "Ada") == "STORE: Ada can sign in\n"
    assert said("list") == "Ada: 0 curate, 0 blinded\n"
    assert said("remove", "Ada") == "STORE: Ada can no longer sign in; decisions are kept\n"
    assert said("list") == "STORE: no readers\n"


# ---- as a process


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_in_one_line(
    tmp_path: Path, tiny_set: Path, synthetic_set: Path, signum: int, code: int
) -> None:
    with ReviewServer(synthetic_set, tiny_set, tmp_path / "review.sqlite") as server:
        with urllib.request.urlopen(server.url) as page:
            assert page.status == 200
        assert server.said == [
            f"{synthetic_set}: 18 synthetic images, 7 real ones (val split of {tiny_set})",
            f"no readers yet: add one with `cxrdist review readers add NAME --store {tmp_path}/review.sqlite`",
            f"open {server.url} (Ctrl-C ends)",
        ]
        server.process.send_signal(signum)
        out, err = server.process.communicate(timeout=20)
    assert (server.process.returncode, out, err) == (code, "", "stopped; the same command resumes\n")
    assert [path.name for path in tmp_path.iterdir()] == ["review.sqlite"]


@pytest.mark.slow
def test_beyond_this_machine_a_token_is_printed(tmp_path: Path, tiny_set: Path, synthetic_set: Path) -> None:
    store = with_readers(tmp_path / "review.sqlite", "Ada")
    with ReviewServer(synthetic_set, tiny_set, store, "--host", "0.0.0.0") as server:
        assert server.said[-2].startswith("readers need name, pass phrase, and the token ")
        assert len(server.said[-2].split()[-1]) == 32
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/") as page:
            assert b"Token of this server" in page.read()
        server.process.terminate()
        _, err = server.process.communicate(timeout=20)
    assert err.splitlines()[0].startswith("warning: the connection is not encrypted")


@pytest.mark.slow
def test_others_read_the_decisions_while_it_serves(
    tmp_path: Path, tiny_set: Path, synthetic_set: Path
) -> None:
    store = tmp_path / "review.sqlite"
    with ReviewServer(synthetic_set, tiny_set, store):
        with sqlite3.connect(f"file:{store}?mode=ro", uri=True) as db:
            names = {name for (name,) in db.execute("SELECT name FROM meta")}
        db.close()
    assert names == {"synthetic_digest", "real_digest", "split", "seed", "share_real", "overlap", "created"}
