"""The scrub of real drives: rot that no reader meets is found, told of, healed, and each pass proves what it read."""
import json, os, time

from test_cluster import digest, wait_full_width
from test_rot import drive_of, flip, places

INLINE, VOLUME = 200 << 10, 2 << 20
RATE = 256 << 20


def status(cluster, node=1):
    rows = json.loads(cluster.adminctl("--json", "scrub", "status", node=node).stdout)["drives"]
    assert len(rows) == 16 and not any(row["error"] for row in rows), rows
    return rows


def a_pass(cluster, node=1):
    """Orders a pass through a node and waits for its end on every drive; what each says of it."""
    before = {row["drive"]: row["pass"] for row in status(cluster)}
    told = cluster.adminctl("scrub", "start", node=node).stdout
    assert "told 16 of 16 drives" in told, told
    deadline = time.monotonic() + 120
    while True:
        rows = status(cluster, node=3)
        done = [row for row in rows if row["last"] and row["last"]["pass"] == before[row["drive"]] + 1]
        if len(done) == len(rows):
            return [row["last"] for row in rows]
        assert time.monotonic() < deadline, rows
        time.sleep(0.3)


def test_rot_that_nobody_reads_is_found_and_healed(cluster):
    """Blocks of three drives flip, read as zeros, or stand in each other's place; nobody reads; a scrub finds them all."""
    s3 = cluster.s3(1)
    s3.create_bucket(Bucket="quiet")
    bodies = {f"{kind}/{n}": os.urandom(size) for kind, size in (("log", INLINE), ("volume", VOLUME)) for n in range(12)}
    for key, body in bodies.items():
        s3.put_object(Bucket="quiet", Key=key, Body=body)
    upload = s3.create_multipart_upload(Bucket="quiet", Key="multi")["UploadId"]
    pieces, parts = [os.urandom(5 << 20), os.urandom(1 << 20)], []
    for number, piece in enumerate(pieces, 1):
        part = s3.upload_part(Bucket="quiet", Key="multi", UploadId=upload, PartNumber=number, Body=piece)
        parts.append({"PartNumber": number, "ETag": part["ETag"]})
    s3.complete_multipart_upload(Bucket="quiet", Key="multi", UploadId=upload, MultipartUpload={"Parts": parts})
    bodies["multi"] = b"".join(pieces)
    wait_full_width(cluster, "quiet", bodies, 60)
    cluster.adminctl("scrub", "rate", str(RATE), node=2)
    clean = a_pass(cluster)
    assert all(one["complete"] and one["found"] == 0 and one["shards"] > 0 for one in clean), clean
    for node in (1, 2, 3):
        cluster.fault("rot", str(node), "1", "--count", "40", "--area", "volumes")
    # Small shards lie in the log; shard 0 begins with the body's first bytes.
    flipped = 0
    for key in (key for key in bodies if key.startswith("log/")):
        folder, place = drive_of(cluster, "quiet", key, 0)
        assert place == "inline"
        for path, at in places(folder, bodies[key][:2048]):
            flip(path, at + 1000)
            flipped += 1
    assert flipped >= 12
    rotten = a_pass(cluster, node=2)
    assert all(one["complete"] for one in rotten), rotten
    assert sum(one["found"] for one in rotten) > 12, "blocks of three drives and a dozen inline shards"
    wait_full_width(cluster, "quiet", bodies, 90)
    # Nothing rotten is left, by a pass that read every live byte of every drive.
    deadline = time.monotonic() + 60
    while any(row["last"]["found"] or not row["last"]["complete"] for row in status(cluster)):
        again = a_pass(cluster)
        assert time.monotonic() < deadline, again
    for node in (1, 2, 3, 4):
        for key, body in bodies.items():
            got = cluster.s3(node).get_object(Bucket="quiet", Key=key)["Body"].read()
            assert digest(got) == digest(body), (node, key)
    table = cluster.adminctl("scrub", "status").stdout
    assert "never" not in table and "did not read" not in table, table


def test_a_scrub_is_held_and_goes_on(cluster):
    """Paused through one node, every drive stops, over a restart too, and goes on to a whole pass."""
    s3 = cluster.s3(1)
    s3.create_bucket(Bucket="slow")
    for n in range(16):
        s3.put_object(Bucket="slow", Key=str(n), Body=os.urandom(VOLUME))
    cluster.adminctl("scrub", "rate", str(256 << 10))
    cluster.adminctl("scrub", "start")
    time.sleep(2)
    cluster.adminctl("scrub", "pause", node=4)
    assert all(row["state"] == "paused" for row in status(cluster))
    time.sleep(1.5)
    cluster.fault("kill-node", "2")
    cluster.fault("start-node", "2")
    held = status(cluster)
    assert all(row["state"] == "paused" and row["shards_left"] > 0 for row in held), held
    cluster.adminctl("scrub", "rate", str(RATE))
    cluster.adminctl("scrub", "resume")
    deadline = time.monotonic() + 60
    while not all(row["last_complete"] for row in status(cluster)):
        assert time.monotonic() < deadline, status(cluster)
        time.sleep(0.3)
