"""A single node as a new user meets it: no arguments, generated credentials, restart, refusals."""
import hashlib, os, pathlib, re, signal, socket, subprocess, time, urllib.request

import pytest
from botocore.exceptions import ClientError

from conftest import BIN, Daemon, client, run


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_ready(daemon, port, seconds=10):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert daemon.process.poll() is None, daemon.output()
        try:
            if urllib.request.urlopen(f"http://127.0.0.1:{port}/_health/ready", timeout=1).status == 200:
                return
        except OSError:
            time.sleep(0.05)
    raise AssertionError(f"not ready after {seconds} s\n{daemon.output()[-4000:]}")


def test_first_start_serves_and_keeps_what_it_took(folder):
    """No arguments but a port: prints endpoint and credentials; what was put survives a restart and a kill -9."""
    port = free_port()
    daemon = Daemon(folder, "--address", f"127.0.0.1:{port}")
    try:
        wait_ready(daemon, port)
        text = daemon.output()
        assert f":{port}" in text and "aws" in text, text
        user = re.search(r"HOLDFAST_ROOT_USER\S*[=:]\s*(\S+)|[Aa]ccess key[:\s]+(\S+)", text)
        secret = re.search(r"HOLDFAST_ROOT_PASSWORD\S*[=:]\s*(\S+)|[Ss]ecret key[:\s]+(\S+)", text)
        assert user and secret, text
        keys = [next(filter(None, m.groups())) for m in (user, secret)]
        s3 = client(f"http://127.0.0.1:{port}", *keys)
        s3.create_bucket(Bucket="first")
        bodies = {"hello": b"hello, world\n", "big": os.urandom(3 << 20), "empty": b""}
        for key, body in bodies.items():
            s3.put_object(Bucket="first", Key=key, Body=body)
        assert daemon.stop() < 10
        for how in (signal.SIGKILL, signal.SIGTERM):
            daemon = Daemon(folder, "--address", f"127.0.0.1:{port}")
            wait_ready(daemon, port)
            for key, body in bodies.items():
                assert s3.get_object(Bucket="first", Key=key)["Body"].read() == body
            assert sorted(o["Key"] for o in s3.list_objects_v2(Bucket="first")["Contents"]) == sorted(bodies)
            daemon.stop(how)
    finally:
        daemon.stop(signal.SIGKILL)


def test_health_needs_no_credentials_and_everything_else_does(folder):
    port = free_port()
    env = {"HOLDFAST_ROOT_USER": "someuser", "HOLDFAST_ROOT_PASSWORD": "somepassword"}
    daemon = Daemon(folder, "server", "--address", f"127.0.0.1:{port}", "--allow-root-disk",
                    f"{folder}/d{{1...4}}", env=env)
    try:
        wait_ready(daemon, port)
        assert urllib.request.urlopen(f"http://127.0.0.1:{port}/_health/live").status == 200
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/bucket/key")
        assert refused.value.code == 403
        with pytest.raises(ClientError) as refused:
            client(f"http://127.0.0.1:{port}", "someuser", "wrongpassword").list_buckets()
        assert refused.value.response["Error"]["Code"] == "SignatureDoesNotMatch"
    finally:
        daemon.stop()


@pytest.mark.parametrize("what, args, env", [
    ("bad notation", ["--allow-root-disk", "/tmp/d{1..4}"], {}),
    ("root disk", ["/var/tmp/holdfast-e2e-root/d{1...4}"], {}),
    ("short password", ["--allow-root-disk", "DIR/d{1...4}"],
     {"HOLDFAST_ROOT_USER": "u", "HOLDFAST_ROOT_PASSWORD": "short"}),
    ("no cluster secret", ["--allow-root-disk", "http://127.0.0.1:9301/DIR/a", "http://127.0.0.1:9302/DIR/b"],
     {"HOLDFAST_ROOT_USER": "someuser", "HOLDFAST_ROOT_PASSWORD": "somepassword"}),
    ("bad address", ["--address", "nowhere", "--allow-root-disk", "DIR/d{1...4}"], {}),
])
def test_refuses_to_start_with_cause_and_cure(folder, what, args, env):
    """Each bad start exits by itself, soon, with a short message; nothing is formatted."""
    args = [a.replace("DIR", str(folder)) for a in args]
    if "--address" not in args:
        args = ["--address", "127.0.0.1:9301" if what == "no cluster secret" else f"127.0.0.1:{free_port()}", *args]
    clean = {k: v for k, v in os.environ.items() if not k.startswith("HOLDFAST_")}
    done = subprocess.run([str(BIN / "holdfastd"), "server", *args], cwd=folder, env={**clean, **env},
                          capture_output=True, text=True, timeout=20)
    assert done.returncode != 0, what
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert 1 <= len(lines) <= 8, f"{what}: {done.stderr}"
    assert "panicked" not in done.stderr
    assert not (folder / "d1").exists() or not any((folder / "d1").iterdir()), what


def test_port_in_use_is_said(folder):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run(BIN / "holdfastd", "--address", f"127.0.0.1:{port}", cwd=folder, check=False, timeout=20)
        assert done.returncode != 0 and str(port) in done.stderr, done.stderr
