"""An object with fewer good shards than its bytes need: on record cluster-wide, over a restart, never deleted, gone by itself."""
import json, os, time

import pytest
from botocore.exceptions import ClientError

from test_rot import drive_of, flip, places

SIZE, PATIENCE = 2 << 20, 90


def on_record(cluster, node=1):
    views = json.loads(cluster.adminctl("--json", "quarantine", "list", node=node).stdout)
    assert len(views) == 4 and not any(view["error"] for view in views), views
    return [row for view in views for row in view["entries"]]


def wait_for(cluster, wanted, node=1):
    deadline = time.monotonic() + PATIENCE
    while not wanted(rows := on_record(cluster, node)):
        assert time.monotonic() < deadline, rows
        time.sleep(0.5)
    return rows


def test_what_nobody_can_restore_is_on_record_until_it_is_gone(cluster):
    """Five of sixteen shards of one object rot, one more than its parity; of another, four. A reader meets the rot; the one is quarantined."""
    s3 = cluster.s3(1)
    s3.create_bucket(Bucket="lost")
    bodies = {key: os.urandom(SIZE) for key in ("beyond", "healed")}
    for key, body in bodies.items():
        s3.put_object(Bucket="lost", Key=key, Body=body)
    for key, count in (("beyond", 5), ("healed", 4)):
        body, flipped = bodies[key], 0
        for shard in range(count):
            # Data shards hold the body's blocks in turn; the first stripe's block of each is looked for.
            folder, place = drive_of(cluster, "lost", key, shard)
            assert place == "volume"
            found = [spot for spot in places(folder, body[shard * 131056:][:2048])]
            for path, at in found:
                flip(path, at + 1000)
                flipped += 1
        assert flipped == count, (key, flipped)
    cluster.adminctl("scrub", "rate", str(1 << 30))
    cluster.adminctl("scrub", "start")
    rows = wait_for(cluster, lambda rows: rows)
    assert {(row["bucket"], row["key"], row["good"], row["need"]) for row in rows} == {("lost", "beyond", 11, 12)}, rows
    since = min(row["since"] for row in rows)
    assert abs(since - time.time()) < PATIENCE and all(row["why"] for row in rows), rows
    with pytest.raises(ClientError) as refused:
        cluster.s3(2, attempts=1).get_object(Bucket="lost", Key="beyond")["Body"].read()
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503
    assert s3.get_object(Bucket="lost", Key="healed")["Body"].read() == bodies["healed"]
    table = cluster.adminctl("quarantine", "list", node=3).stdout
    assert "lost/beyond (null)" in table, table
    told = cluster.adminctl("quarantine", "restore", "lost", "beyond", node=2).stdout
    assert "still short: 11 good shards of the 12" in told, told
    # What is on record outlives its node's restart.
    time.sleep(3)
    for node in (1, 2, 3, 4):
        cluster.fault("stop-node", node), cluster.fault("start-node", node)
    rows = wait_for(cluster, lambda rows: rows, node=4)
    assert min(row["since"] for row in rows) == since, rows
    s3.put_object(Bucket="lost", Key="beyond", Body=b"anew")
    wait_for(cluster, lambda rows: not rows)
    assert cluster.s3(3).get_object(Bucket="lost", Key="beyond")["Body"].read() == b"anew"
