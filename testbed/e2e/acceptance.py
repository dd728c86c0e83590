"""The long acceptance run, by hand: `python testbed/e2e/acceptance.py [--small N] [--rounds N]`.

On a 4 x 4 cluster: 20,000 objects of 10 KiB, 200 of 8 MiB, 40 of 64 MiB (half of them multipart), odd keys; read back by sha256
from every node and listed whole from every node. Then: a node dies and comes back while clients write; an index is deleted under a
stopped node; kill -9 of every daemon under load, twenty times. Prints one line a step and ends with what it counted.
"""
import argparse, concurrent.futures, hashlib, io, os, pathlib, random, shutil, sys, tempfile, threading, time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from boto3.s3.transfer import TransferConfig  # noqa: E402
from conftest import Cluster  # noqa: E402
from test_cluster import KEYS, listed  # noqa: E402

arguments = argparse.ArgumentParser()
arguments.add_argument("--small", type=int, default=20_000)
arguments.add_argument("--middle", type=int, default=200)
arguments.add_argument("--large", type=int, default=40)
arguments.add_argument("--rounds", type=int, default=20)
arguments.add_argument("--workers", type=int, default=12)
args = arguments.parse_args()
MULTIPART = TransferConfig(multipart_threshold=8 << 20, multipart_chunksize=8 << 20, max_concurrency=4)
SINGLE = TransferConfig(multipart_threshold=1 << 30)


def body_of(key, size):
    """Content that belongs to the key, so that nothing needs to be kept."""
    return random.Random(key).randbytes(size)


def say(text):
    print(f"{time.monotonic() - began:7.1f} s  {text}", flush=True)


def each(work, items):
    with concurrent.futures.ThreadPoolExecutor(args.workers) as pool:
        return list(pool.map(work, items))


def objects():
    small = {f"small/{n % 97:02}/{n:06}": 10 << 10 for n in range(args.small)} | {key: 10 << 10 for key in KEYS}
    return small, {f"middle/{n:04}": 8 << 20 for n in range(args.middle)}, {f"large/{n:03}": 64 << 20 for n in range(args.large)}


def fill_and_read(cluster):
    clients = [cluster.s3(node) for node in (1, 2, 3, 4)]
    clients[0].create_bucket(Bucket="whole")
    small, middle, large = objects()
    pick = lambda key: clients[hash(key) % 4]  # noqa: E731
    each(lambda k: pick(k).put_object(Bucket="whole", Key=k, Body=body_of(k, small[k])), small)
    each(lambda k: pick(k).put_object(Bucket="whole", Key=k, Body=body_of(k, middle[k])), middle)
    for number, key in enumerate(large):
        how = MULTIPART if number % 2 else SINGLE
        pick(key).upload_fileobj(io.BytesIO(body_of(key, large[key])), "whole", key, Config=how)
    say(f"written: {len(small)} of 10 KiB, {len(middle)} of 8 MiB, {len(large)} of 64 MiB")
    every = small | middle | large
    for node, s3 in enumerate(clients, 1):
        def same(key, s3=s3):
            got = hashlib.sha256(s3.get_object(Bucket="whole", Key=key)["Body"].read()).digest()
            return got == hashlib.sha256(body_of(key, every[key])).digest()
        wrong = [key for key, fine in zip(every, each(same, every)) if not fine]
        assert not wrong, (node, wrong[:5])
        assert listed(s3, "whole") == sorted(every, key=lambda k: k.encode()), node
        say(f"node {node}: {len(every)} read back by sha256 and listed whole")
    return every


class Writers:
    """Clients that write all the time and remember what was acknowledged."""

    def __init__(self, cluster, bucket, attempts):
        self.cluster, self.bucket, self.attempts = cluster, bucket, attempts
        self.acknowledged, self.errors, self.round = set(), [], 0

    def during(self, work):
        self.round += 1
        stop = threading.Event()

        def write(worker):
            s3, count = self.cluster.s3(1 + worker % 4, attempts=self.attempts), 0
            while not stop.is_set():
                key = f"{self.round:02}/{worker}/{count:05}"
                try:
                    s3.put_object(Bucket=self.bucket, Key=key, Body=body_of(key, 10 << 10 if count % 20 else 700 << 10))
                    self.acknowledged.add(key)
                except Exception as error:  # noqa: BLE001
                    self.errors.append(f"{key}: {error!r}"[:200])
                    time.sleep(0.02)
                count += 1

        threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
        [thread.start() for thread in threads]
        work()
        stop.set()
        [thread.join() for thread in threads]

    def check(self, node):
        s3 = self.cluster.s3(node)

        def lost(key):
            size = 10 << 10 if int(key.rsplit("/", 1)[1]) % 20 else 700 << 10
            try:
                return s3.get_object(Bucket=self.bucket, Key=key)["Body"].read() != body_of(key, size)
            except Exception as error:  # noqa: BLE001
                return repr(error)
        bad = [(key, why) for key, why in zip(self.acknowledged, each(lost, self.acknowledged)) if why]
        missing = self.acknowledged - set(listed(s3, self.bucket))
        assert not bad and not missing, (node, bad[:5], sorted(missing)[:5])


def node_dies(cluster):
    cluster.s3(1).create_bucket(Bucket="dying")
    writers = Writers(cluster, "dying", attempts=8)

    def fault():
        time.sleep(3)
        cluster.fault("kill-node", 4)
        time.sleep(8)
        cluster.fault("start-node", 4)
        time.sleep(3)
    writers.during(fault)
    others = [e for e in writers.errors if "EndpointConnectionError" not in e and "ConnectionClosed" not in e]
    assert not others, others[:5]
    [writers.check(node) for node in (1, 4)]
    say(f"a node died and came back: {len(writers.acknowledged)} acknowledged, none lost, no error beside those of the dead node's own clients")


def index_deleted(cluster, every):
    cluster.fault("stop-node", 2)
    shutil.rmtree(pathlib.Path(cluster.facts["nodes"][1]["drives"][0]) / "index")
    cluster.fault("start-node", 2)
    s3, sample = cluster.s3(2), random.Random(1).sample(sorted(every), min(500, len(every)))
    wrong = [k for k, fine in zip(sample, each(lambda k: s3.get_object(Bucket="whole", Key=k)["Body"].read() == body_of(k, every[k]), sample)) if not fine]
    assert not wrong, wrong[:5]
    assert len(listed(s3, "whole")) == len(every)
    say(f"an index deleted under a stopped node: {len(sample)} sampled objects read back through it, all {len(every)} listed")


def kill_nine(cluster):
    cluster.s3(1).create_bucket(Bucket="nine")
    writers = Writers(cluster, "nine", attempts=1)
    for _ in range(args.rounds):
        def fault():
            time.sleep(2)
            each(lambda n: cluster.fault("kill-node", n), (1, 2, 3, 4))
        writers.during(fault)
        each(lambda n: cluster.fault("start-node", n), (1, 2, 3, 4))
    [writers.check(node) for node in (1, 2, 3, 4)]
    say(f"kill -9 of all daemons, {args.rounds} times: {len(writers.acknowledged)} acknowledged, none lost")


began = time.monotonic()
folder = tempfile.mkdtemp(prefix="holdfast-acceptance-")
cluster = Cluster(folder, 4, 4)
try:
    every = fill_and_read(cluster)
    node_dies(cluster)
    index_deleted(cluster, every)
    kill_nine(cluster)
    say("accepted")
finally:
    cluster.down()
    shutil.rmtree(folder, ignore_errors=True)
