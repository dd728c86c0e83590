"""Drives that are wiped, moved, or come back older than they were, under real daemons: noticed unasked, and nothing is lost."""
import json, os, pathlib, shutil, time

from test_cluster import digest, wait_full_width

PATIENCE = 120


def drives(cluster, node=1):
    return {row["path"]: row for row in json.loads(cluster.adminctl("--json", "drive", "list", node=node).stdout)}


def folder(cluster, node, drive):
    return pathlib.Path(cluster.facts["nodes"][node - 1]["drives"][drive - 1])


def fill(cluster, bucket, prefix, count, node=1):
    s3 = cluster.s3(node)
    bodies = {f"{prefix}/{n:03}": os.urandom((9 << 10, 300 << 10, 1 << 20)[n % 3] + n) for n in range(count)}
    for key, body in bodies.items():
        s3.put_object(Bucket=bucket, Key=key, Body=body)
    return bodies


def same_everywhere(cluster, bucket, bodies):
    for node in (1, 2, 3, 4):
        s3 = cluster.s3(node)
        for key, body in bodies.items():
            assert digest(s3.get_object(Bucket=bucket, Key=key)["Body"].read()) == digest(body), (node, key)


def wait_taken_in(cluster, gone):
    """Until each path of `gone` has another identity than it names, and every drive is healthy."""
    deadline = time.monotonic() + PATIENCE
    while True:
        now = drives(cluster)
        fresh = all(str(path) in now and now[str(path)]["drive"] != old for path, old in gone.items())
        if fresh and all(row["state"] == "healthy" for row in now.values()):
            return
        assert time.monotonic() < deadline, now
        time.sleep(0.3)


def proofs(cluster):
    """What each rebuild proved, by the drive's path."""
    views = json.loads(cluster.adminctl("--json", "heal", "status").stdout)
    return {one["path"]: one for view in views for one in view["rebuilds"]}


def test_wiped_drives_are_rebuilt_with_proof(cluster):
    """One drive is wiped under its running node, another while its node is stopped; stock clients write meanwhile."""
    cluster.s3(1).create_bucket(Bucket="wiped")
    bodies = fill(cluster, "wiped", "before", 24)
    one, other = folder(cluster, 2, 1), folder(cluster, 3, 4)
    before = drives(cluster)
    cluster.fault("wipe-drive", "2", "1")
    bodies |= fill(cluster, "wiped", "during", 12)
    wait_taken_in(cluster, {one: before[str(one)]["drive"]})
    cluster.fault("stop-node", "3")
    cluster.fault("wipe-drive", "3", "4")
    bodies |= fill(cluster, "wiped", "away", 6)
    cluster.fault("start-node", "3")
    wait_taken_in(cluster, {other: before[str(other)]["drive"]})
    told = proofs(cluster)
    for path in (one, other):
        proof = told[str(path)]
        assert proof["phase"] == "done" and proof["versions"] >= 24, proof
        assert proof["whole"] + proof["short_count"] == proof["versions"], proof
    wait_full_width(cluster, "wiped", bodies, 90)
    same_everywhere(cluster, "wiped", bodies)


def test_drives_that_change_places_stay_themselves(cluster):
    """Two drives of a node are mounted in each other's place: each is served under its own identity, nothing is rebuilt."""
    cluster.s3(1).create_bucket(Bucket="moved")
    bodies = fill(cluster, "moved", "o", 18)
    wait_full_width(cluster, "moved", bodies, 60)
    before = drives(cluster)
    one, other = folder(cluster, 2, 1), folder(cluster, 2, 3)
    cluster.fault("stop-node", "2")
    spare = one.with_name("spare")
    one.rename(spare), other.rename(one), spare.rename(other)
    cluster.fault("start-node", "2")
    deadline = time.monotonic() + PATIENCE
    while not all(row["state"] == "healthy" for row in drives(cluster, node=3).values()):
        assert time.monotonic() < deadline, drives(cluster, node=3)
        time.sleep(0.3)
    # Nobody was made anew: the cluster has the identities it had.
    assert sorted(row["drive"] for row in drives(cluster).values()) == sorted(row["drive"] for row in before.values())
    assert not proofs(cluster)
    wait_full_width(cluster, "moved", bodies, 60)
    same_everywhere(cluster, "moved", bodies)
    log = (pathlib.Path(cluster.facts["nodes"][1]["dir"]) / "log").read_text()
    assert log.count("drive moved from") == 2, log[-4000:]


def test_a_drive_that_comes_back_older_is_taken_in_anew(cluster):
    """A drive's folder is put back as it was before its last start and what was written since: it must not serve as if nothing
    had happened, though all it says is in itself true."""
    cluster.s3(1).create_bucket(Bucket="stale")
    bodies = fill(cluster, "stale", "first", 9)
    path = folder(cluster, 2, 2)
    identity = drives(cluster)[str(path)]["drive"]
    copy = path.with_name("copy")
    cluster.fault("stop-node", "2")
    shutil.copytree(path, copy)
    cluster.fault("start-node", "2")
    bodies |= fill(cluster, "stale", "second", 12)
    # Overwritten and deleted, too: an old drive would remember what is gone.
    s3, gone = cluster.s3(3), sorted(bodies)[0]
    s3.delete_object(Bucket="stale", Key=gone)
    del bodies[gone]
    wait_full_width(cluster, "stale", bodies, 60)
    cluster.fault("stop-node", "2")
    shutil.rmtree(path)
    copy.rename(path)
    cluster.fault("start-node", "2")
    wait_taken_in(cluster, {path: identity})
    log = (pathlib.Path(cluster.facts["nodes"][1]["dir"]) / "log").read_text()
    assert "older than the others remember" in log, log[-4000:]
    assert (path / "aside" / "1" / "identity").exists(), "its files are kept for people"
    wait_full_width(cluster, "stale", bodies, 90)
    same_everywhere(cluster, "stale", bodies)
    listed = [o["Key"] for o in cluster.s3(2).list_objects_v2(Bucket="stale")["Contents"]]
    assert listed == sorted(bodies)
