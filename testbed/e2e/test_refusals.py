"""What is refused is told: to clients that are still sending, and to operators who start a node wrongly."""
import http.client, os, shutil, signal, ssl, time, urllib.parse

import pytest

from conftest import BIN, Daemon
from test_single_node import free_port, wait_ready

ENV = {"HOLDFAST_ROOT_USER": "someuser", "HOLDFAST_ROOT_PASSWORD": "somepassword",
       "HOLDFAST_CLUSTER_SECRET": "a secret of this test"}


def put_unasked(endpoint, ca, size):
    """PUT as clients do that send the whole body before they listen; the answer's status and whether the connection lives."""
    at = urllib.parse.urlparse(endpoint)
    plain = {"timeout": 30}
    connect = http.client.HTTPConnection(at.hostname, at.port, **plain) if at.scheme == "http" else \
        http.client.HTTPSConnection(at.hostname, at.port, context=ssl.create_default_context(cafile=ca), **plain)
    try:
        connect.request("PUT", "/nobody-knows-this/k", body=bytes(size))
        answer = connect.getresponse()
        text = answer.read()
        connect.request("GET", "/_health/live")
        return answer.status, b"<Code>AccessDenied<" in text, connect.getresponse().status
    finally:
        connect.close()


@pytest.mark.parametrize("size", [70_000, 20_000_000])
def test_a_client_that_is_still_sending_hears_the_refusal(checked, size):
    """A PUT without Expect: 100-continue is refused before its body is read: the answer comes through, each time."""
    cluster, _ = checked
    answers = [put_unasked(cluster.endpoints[0], cluster.facts["ca"], size) for _ in range(10)]
    assert answers == [(403, True, 200)] * 10


def test_volumes_that_cannot_be_are_refused_in_one_line(folder):
    """Two names of one folder; more drives than the cluster was formatted with; a log filter that is none."""
    (folder / "real").mkdir()
    os.symlink(folder / "real", folder / "link")
    port = free_port()

    def refused(*volumes, env=ENV, why):
        daemon = Daemon(folder, "--address", f"127.0.0.1:{port}", "--allow-root-disk", *volumes, env=env)
        try:
            assert daemon.process.wait(15) != 0
        finally:
            daemon.stop(signal.SIGKILL)
        assert why in daemon.output(), daemon.output()
        os.truncate(folder / "daemon.log", 0)

    refused(folder / "real", folder / "link", why="are the same folder")
    assert os.listdir(folder / "real") == []
    daemon = Daemon(folder, "--address", f"127.0.0.1:{port}", "--allow-root-disk", f"{folder}/d{{1...4}}", env=ENV)
    wait_ready(daemon, port)
    daemon.stop()
    refused(f"{folder}/d{{1...8}}", why="formatted with 4")
    refused(f"{folder}/d{{1...4}}", f"{folder}/e{{1...4}}", why="formatted with 4")
    refused(f"{folder}/d{{1...4}}", env={**ENV, "HOLDFAST_LOG": "###"}, why="HOLDFAST_LOG")


@pytest.mark.skipif(not shutil.which("faketime"), reason="needs faketime")
def test_one_wrong_clock_stops_nobody_else(folder):
    """Three nodes of a formatted cluster, the third 16 minutes ahead and first to start: it ends with one line of cause, the others
    get ready."""
    ports = [free_port() for _ in range(3)]
    volumes = [f"http://127.0.0.1:{port}{folder}/n{n}/d{d}" for n, port in enumerate(ports, 1) for d in (1, 2)]

    def start(n, *before):
        cwd = folder / f"cwd{n}"
        cwd.mkdir(exist_ok=True)
        daemon = Daemon(cwd, "--address", f"127.0.0.1:{ports[n - 1]}", "--allow-root-disk", *volumes, env=ENV,
                        before=before)
        return daemon

    started = [start(n) for n in (1, 2, 3)]
    try:
        for daemon, port in zip(started, ports):
            wait_ready(daemon, port, 30)
        for daemon in started:
            daemon.stop()
        started = [start(3, "faketime", "-f", "+16m")]
        time.sleep(2)
        started.append(start(1))
        time.sleep(2)
        started.append(start(2))
        for daemon, port in zip(started[1:], ports):
            wait_ready(daemon, port, 30)
        assert started[0].process.wait(30) != 0
        assert "compare clocks" in started[0].output(), started[0].output()[-2000:]
    finally:
        for daemon in started:
            daemon.stop(signal.SIGKILL)
