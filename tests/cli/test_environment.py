"""The environment around a command: proxies, locales, terminals, pipes, homes, odd paths. None costs work or leaves the machine."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import requests

from s3mini.cli.base import pairs
from s3mini.cli.terminal import command
from s3mini.errors import ModelError
from s3mini.profile import load_profile
from s3mini.runs.http_client import is_local, open_client, proxy_for
from s3mini.runs.machine import keep_local

PROXY = "http://10.255.255.1:9"
ODD = "a b #1 50%?'\"é"


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


# Proxies

LOCAL = [
    "localhost", "LOCALHOST", "localhost.", "x.localhost", "localhost.localdomain", "127.0.0.1", "127.8.9.1", "127.1",
    "0.0.0.0", "[::1]", "[::]", "[::ffff:127.0.0.1]", "ip6-localhost", "ip6-loopback", "localhost6", "0x7f.1",
    "localhost4.localdomain4", "localhost6.localdomain6", "2130706433", "0",
]  # fmt: skip


VARIABLES = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]
UNUSABLE = [PROXY, "socks5://10.255.255.1:9", "nonsense://["]


@pytest.mark.parametrize("variable", VARIABLES)
@pytest.mark.parametrize("proxy", UNUSABLE)
def test_what_is_local_goes_by_no_proxy(variable: str, proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, proxy)
    for host in LOCAL:
        for scheme in ("http", "https"):
            assert proxy_for(httpx.URL(f"{scheme}://{host}:8000/v1")) is None, host
    open_client(httpx.Client, "http://0.0.0.0:8000", ModelError).close()


@pytest.mark.parametrize(
    "host",
    [
        "example.org",
        "10.0.0.1",
        "[2001:db8::1]",
        "localhost.example.org",
        "128.0.0.1",
        "notlocalhost",
        "localhost7",
    ],
)
def test_what_is_not_local_is_not(host: str) -> None:
    assert not is_local(httpx.URL(f"http://{host}"))


@pytest.mark.parametrize(
    ("no_proxy", "excepted"),
    [
        ("", []),
        ("*", ["gpu.corp.net", "10.1.2.3", "[fe80::1]", "other.org"]),
        ("gpu.corp.net", ["gpu.corp.net"]),
        (".corp.net", ["gpu.corp.net"]),
        ("*.corp.net", ["gpu.corp.net"]),
        (" other.org , ,corp.net", ["gpu.corp.net", "other.org"]),
        ("http://corp.net", ["gpu.corp.net"]),
        ("corp.net:8000", ["gpu.corp.net"]),
        ("corp.net:9", []),
        ("10.0.0.0/8", ["10.1.2.3"]),
        ("10.1.2.3:8000", ["10.1.2.3"]),
        ("fe80::/10,[::1]", ["[fe80::1]"]),
        ("[fe80::1]:8000", ["[fe80::1]"]),
        ("orp.net,0.1.2.3,[,@,/", []),
    ],
)
def test_no_proxy_in_all_its_forms(
    no_proxy: str, excepted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "10.255.255.1:9")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    for host in ("gpu.corp.net", "10.1.2.3", "[fe80::1]", "other.org"):
        expected = None if host in excepted else PROXY
        assert proxy_for(httpx.URL(f"http://{host}:8000/v1")) == expected, host
    open_client(httpx.AsyncClient, "http://gpu.corp.net:8000", ModelError)


@pytest.mark.parametrize("proxy", ["socks5://user:secret@10.255.255.1:9", "socks4://x:1", "http://[::1"])
def test_a_proxy_that_cannot_be_used_is_told(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    try:
        open_client(httpx.Client, "http://example.org", ModelError).close()
    except ModelError as error:
        assert "http://example.org" in str(error) and "secret" not in str(error)
    else:
        assert proxy.startswith("socks5"), "only where the package for it is there"


@pytest.mark.parametrize(
    "listed", [None, "corp.net", "[::1]", "[::1]:8000", "*", "fe80::/10", "::1/128,FE80::/10", "[fe80::]/10"]
)
def test_other_libraries_stay_on_the_machine_too(listed: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    before = dict(os.environ)
    keep_local()
    assert dict(os.environ) == before, "without a proxy nothing is touched"
    monkeypatch.setenv("HTTP_PROXY", PROXY)
    monkeypatch.setenv("NO_PROXY", listed or "")
    monkeypatch.setenv("no_proxy", "")
    keep_local()
    session = requests.Session()
    for host in ("localhost", "127.0.0.1", "0.0.0.0", "[::1]"):
        settings = session.merge_environment_settings(f"http://{host}:8002/x", {}, None, None, None)
        assert not settings["proxies"], host
    httpx.Client().close()
    assert "corp.net" in os.environ["no_proxy"] or listed != "corp.net"
    excepted = listed is not None and ("fe80" in listed.lower() or listed == "*")
    assert proxy_for(httpx.URL("http://[fe80::1]:8000")) == (None if excepted else PROXY)
    before = os.environ["no_proxy"]
    keep_local()
    assert os.environ["no_proxy"] == before, "a process that it starts does the same again"


# Locales, terminals, pipes, homes


def run(*arguments: str, shell: str = "", **environment: str | None) -> subprocess.CompletedProcess[bytes]:
    """The command line as a process of its own; None takes a variable away."""
    given = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **environment}
    line = [sys.executable, "-m", "s3mini.cli", *arguments]
    kept = {name: value for name, value in given.items() if value is not None}
    if shell:
        return subprocess.run(
            ["bash", "-c", f"{shlex.join(line)} {shell}"], env=kept, capture_output=True, timeout=300
        )
    return subprocess.run(line, env=kept, capture_output=True, timeout=300)


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results file, in a folder and of a name that are not ASCII."""
    shipped = Path(__file__).parents[2] / "data/mini/results/seed0.json"
    path = tmp_path_factory.mktemp("ré") / f"{ODD}.json"
    path.write_bytes(shipped.read_bytes())
    return path


@pytest.mark.parametrize(
    "environment",
    [
        ASCII,
        {"LC_ALL": "C"},
        {"LC_ALL": None, "LANG": None},
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONIOENCODING": "ascii"},
        {"HOME": None, "TERM": "dumb"},
        {"HOME": "/dev/null/nowhere", "TERM": None},
        {"HTTP_PROXY": PROXY, "ALL_PROXY": "socks5://10.255.255.1:9", "NO_PROXY": "[::1]"},
    ],
)
def test_a_command_that_is_local_runs_anywhere(environment: dict[str, str | None], results: Path) -> None:
    done = run("table", str(results), **environment)  # type: ignore[arg-type]
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert b"`s3`" in done.stdout and b"Traceback" not in done.stderr


def test_what_a_terminal_cannot_show_is_shown_otherwise() -> None:
    done = run("table", "/nichts/日本.json", PYTHONIOENCODING="latin-1")
    assert done.returncode == 1 and done.stdout == b""
    assert (
        rb"error: /nichts/\u65e5\u672c.json: no such file" in done.stderr and b"Traceback" not in done.stderr
    )


@pytest.mark.parametrize(
    ("shell", "code", "told"),
    [
        ("| head -c 1 >/dev/null; exit ${PIPESTATUS[0]}", 1, b""),
        (">/dev/full", 1, b"not all could be printed"),
        (">&-", 0, b""),
        (">&- 2>&-", 0, b""),
        (">/dev/full 2>/dev/full", 1, b""),
    ],
)
def test_no_work_is_lost_to_what_cannot_be_printed(
    shell: str, code: int, told: bytes, tmp_path: Path
) -> None:
    """A world of two thousand lines is written whole, though its first line of output finds no reader."""
    shell = shell.replace("| head", "| (sleep 0; exec head")
    shell = shell.replace("/dev/null;", "/dev/null);")
    done = run("world", "--out", str(tmp_path / ODD), shell=shell)
    assert (tmp_path / ODD / "world.json").is_file() and (tmp_path / ODD / "corpus.jsonl").is_file()
    assert b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr
    assert told in done.stderr
    assert done.returncode in ((0, 1) if "head" in shell else (code,))


@pytest.mark.parametrize(
    ("named", "codeset"),
    [
        ({"LC_ALL": "C"}, ""),
        ({"LC_ALL": "POSIX"}, ""),
        ({"LC_ALL": "xx_XX.UTF-8"}, ""),  # not installed
        ({"LANG": "C", "PYTHONCOERCECLOCALE": "0"}, ""),
        ({"LC_ALL": "C.UTF-8"}, "UTF-8"),
        ({}, "UTF-8"),  # Python has then set LC_CTYPE, also for those it starts
    ],
)
def test_java_is_given_a_locale_only_where_there_is_none(named: dict[str, str], codeset: str) -> None:
    kept = {name: value for name, value in os.environ.items() if name not in ("LC_ALL", "LC_CTYPE", "LANG")}
    code = "from s3mini.runs.machine import utf8_locale; print(utf8_locale().get('LC_ALL', 'UTF-8'))"
    given = kept | named | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code], env=given, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.strip() == (codeset or "C.UTF-8"), done.stderr


# What can be pasted


@pytest.mark.parametrize(
    "value", ["/plain/x", f"/{ODD}/x", "a: b", "yes", "1e3", "[x", " # ", "'q'", "null", "~", "@x"]
)
def test_a_printed_setting_comes_back_as_it_was(value: str) -> None:
    line = command("s3mini", "ask", settings={"data.corpus": value})
    words = shlex.split(line)
    assert words[:3] == ["s3mini", "ask", "--set"]
    assert pairs(words[3:], "--set") == {"data.corpus": value}


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("/a #b/c", "/a #b/c"),
        ("'/a #b'", "/a #b"),
        ("5 # five", 5),
        ("[1, 2]", [1, 2]),
        ("/a#b", "/a#b"),
        ("#a/b", "#a/b"),
    ],
)
def test_a_path_typed_with_a_blank_and_a_hash_is_not_cut(given: str, read: object) -> None:
    assert pairs([f"k={given}"], "--set") == {"k": read}


def test_a_profile_names_itself_as_commands_take_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3mini.profile.ROOT", tmp_path / ODD)
    assert load_profile("mini").option == "--profile mini"
    own = load_profile("mini", name="my data")
    assert own.option == "--profile 'my data'"
    own.build.mkdir(parents=True)
    (own.build / "my data.yaml").write_text("extends: mini\nname: my data\n", encoding="utf-8")
    _, path = shlex.split(own.option)
    assert load_profile(path).name == "my data"


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run("world", "--out", str(tmp_path / "file" / "below"))
    assert done.returncode == 1 and b"Traceback" not in done.stderr
    assert done.stderr.startswith(b"error: ") and b"Not a directory" in done.stderr and b"file" in done.stderr


def test_a_current_folder_that_was_deleted_is_told(results: Path, tmp_path: Path) -> None:
    """transformers asks for it as it is imported; what needs no folder runs all the same."""
    gone = tmp_path / "gone"

    def inside(*arguments: str) -> subprocess.CompletedProcess[bytes]:
        gone.mkdir()
        line = shlex.join([sys.executable, "-m", "s3mini.cli", *arguments])
        given = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        shell = ["bash", "-c", f"cd {shlex.quote(str(gone))} && rmdir ../gone && {line}"]
        return subprocess.run(shell, env=given, capture_output=True, timeout=300)

    assert inside("table", str(results)).returncode == 0
    done = inside("ask", "--profile", "smoke", "Who?")
    assert done.returncode == 1 and b"Traceback" not in done.stderr
    assert b"error: the current folder was deleted: cd to another" in done.stderr


def test_a_report_needs_no_link() -> None:
    """Report and pictures are one file: a folder's name, whatever is in it, is no part of it."""
    pages = Path(__file__).parents[2] / "s3mini/report"
    links = [
        line
        for page in pages.glob("*.py")
        for line in page.read_text(encoding="utf-8").splitlines()
        if "href=" in line
    ]
    assert links == []
