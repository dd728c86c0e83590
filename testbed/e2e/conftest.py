"""Real daemons, a stock client. Binaries come from the workspace's target folder (or $HOLDFAST_BIN)."""
import json, os, pathlib, shutil, signal, subprocess, tempfile, time

import boto3, botocore.config, pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("HOLDFAST_BIN", ROOT / "target" / "debug"))
# Go and Python clients read these; over http they must not matter.
for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
    os.environ.pop(name, None)


def run(*args, check=True, timeout=120, **kwargs):
    done = subprocess.run([str(a) for a in args], capture_output=True, text=True, timeout=timeout, **kwargs)
    assert not check or done.returncode == 0, f"{args}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def client(endpoint, access_key, secret_key, attempts=8, ca=None, **options):
    config = botocore.config.Config(
        retries={"max_attempts": attempts, "mode": "standard"}, connect_timeout=5, read_timeout=60,
        s3={"addressing_style": "path"}, max_pool_connections=64, **options)
    return boto3.client("s3", endpoint_url=endpoint, aws_access_key_id=access_key,
                        aws_secret_access_key=secret_key, region_name="us-east-1", config=config, verify=ca or True)


class Cluster:
    def __init__(self, folder, nodes, drives, tls=False):
        self.dir = pathlib.Path(folder)
        certs = ["--certs-dir", self.dir / "certs"] if tls else []
        run(BIN / "testbed", "up", "--nodes", nodes, "--drives", drives, "--dir", self.dir, "--detach", *certs)
        self.facts = json.loads((self.dir / "cluster.json").read_text())

    @property
    def endpoints(self):
        return self.facts["endpoints"]

    def s3(self, node=1, **kwargs):
        return client(self.endpoints[node - 1], self.facts["access_key"], self.facts["secret_key"],
                      ca=self.facts["ca"], **kwargs)

    def bench(self, *args):
        return json.loads(run(BIN / "testbed", "bench", *args, "--dir", self.dir, "--json").stdout)

    def fault(self, *args):
        run(BIN / "testbed", "fault", "--dir", self.dir, *args)
        self.facts = json.loads((self.dir / "cluster.json").read_text())

    def adminctl(self, *args, node=1):
        env = dict(os.environ, HOLDFAST_ROOT_USER=self.facts["access_key"],
                   HOLDFAST_ROOT_PASSWORD=self.facts["secret_key"], HOLDFAST_CA=self.facts["ca"] or "")
        if not self.facts["ca"]:
            del env["HOLDFAST_CA"]
        return run(BIN / "adminctl", "--endpoint", self.endpoints[node - 1], *args, env=env)

    def down(self):
        run(BIN / "testbed", "down", "--dir", self.dir, check=False)


@pytest.fixture()
def folder():
    path = tempfile.mkdtemp(prefix="holdfast-e2e-")
    yield pathlib.Path(path)
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(params=["http", "https"])
def cluster(folder, request):
    """Every test that asks for a cluster runs in the clear and over TLS."""
    made = Cluster(folder, 4, 4, tls=request.param == "https")
    yield made
    made.down()


class Daemon:
    """One `holdfastd` started by hand, as the README tells."""

    def __init__(self, cwd, *args, env=None, before=()):
        self.cwd, self.args, self.env = cwd, args, env or {}
        self.log = open(pathlib.Path(cwd) / "daemon.log", "a+")
        clean = {k: v for k, v in os.environ.items() if not k.startswith("HOLDFAST_")}
        self.process = subprocess.Popen([*before, str(BIN / "holdfastd"), *map(str, args)], cwd=cwd,
                                        stdout=self.log, stderr=self.log, env={**clean, **self.env})

    def output(self):
        self.log.flush()
        return pathlib.Path(self.log.name).read_text()

    def stop(self, how=signal.SIGTERM, timeout=10):
        started = time.monotonic()
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"not gone {timeout} s after the signal\n{self.output()[-4000:]}")
        return time.monotonic() - started


@pytest.fixture(scope="module", params=["http", "https"])
def checked(request):
    """A small cluster with a bucket `sums`, shared by a module's tests; and whether it speaks TLS."""
    path = tempfile.mkdtemp(prefix="holdfast-e2e-")
    made = Cluster(path, 2, 2, tls=request.param == "https")
    made.s3(1).create_bucket(Bucket="sums")
    yield made, request.param == "https"
    made.down()
    shutil.rmtree(path, ignore_errors=True)
