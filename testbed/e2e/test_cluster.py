"""Four nodes of four drives: every node answers alike, a dead node is hidden, nothing acknowledged is lost."""
import concurrent.futures, hashlib, json, os, threading, time

import pytest
from botocore.exceptions import ClientError

KEYS = ["plain", "a", "a/b", "a//b", "//", "../up", "a/../b", "dir/", "späße/日本/🦀", "sp ace+plus%25", "x" * 1024]


def digest(body):
    return hashlib.sha256(body).hexdigest()


def listed(s3, bucket, **kwargs):
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, **kwargs)
    return [o["Key"] for page in pages for o in page.get("Contents", [])]


def test_every_node_shows_the_same(cluster):
    """Odd keys and all size classes, written through one node, read back by sha256 and listed from each."""
    s3 = cluster.s3(1)
    s3.create_bucket(Bucket="same")
    bodies = {key: os.urandom(10 << 10) for key in KEYS}
    bodies |= {f"size/{n}": os.urandom(n) for n in (0, 1, 16 << 10, 65536, 1 << 20, (8 << 20) + 3)}
    for key, body in bodies.items():
        s3.put_object(Bucket="same", Key=key, Body=body)
    upload = s3.create_multipart_upload(Bucket="same", Key="multi")
    parts, whole = [], b""
    for number in (1, 2, 3):
        body = os.urandom(5 << 20 if number < 3 else 1234)
        whole += body
        part = s3.upload_part(Bucket="same", Key="multi", UploadId=upload["UploadId"], PartNumber=number, Body=body)
        parts.append({"PartNumber": number, "ETag": part["ETag"]})
    s3.complete_multipart_upload(Bucket="same", Key="multi", UploadId=upload["UploadId"],
                                 MultipartUpload={"Parts": parts})
    bodies["multi"] = whole
    for node in (1, 2, 3, 4):
        s3 = cluster.s3(node)
        for key, body in bodies.items():
            assert digest(s3.get_object(Bucket="same", Key=key)["Body"].read()) == digest(body), (node, key)
        assert listed(s3, "same") == sorted(bodies, key=lambda k: k.encode()), node
        assert listed(s3, "same", PaginationConfig={"PageSize": 3}) == sorted(bodies, key=lambda k: k.encode())
        got = s3.get_object(Bucket="same", Key="multi", Range="bytes=5242870-5242899")["Body"].read()
        assert got == whole[5242870:5242900]
    found = s3.delete_objects(Bucket="same", Delete={"Objects": [{"Key": k} for k in bodies]})
    assert not found.get("Errors") and listed(cluster.s3(2), "same") == []
    s3.delete_bucket(Bucket="same")
    with pytest.raises(ClientError) as gone:
        cluster.s3(3).list_objects_v2(Bucket="same")
    assert gone.value.response["Error"]["Code"] == "NoSuchBucket"


def test_a_node_dies_while_clients_write(cluster):
    """A stock client's retries hide the death of a node; restarted, it catches up by itself to full width."""
    s3 = cluster.s3(1)
    s3.create_bucket(Bucket="dying")
    acknowledged, errors, stop = {}, [], threading.Event()

    def writer(worker):
        mine, count = cluster.s3(1 + worker % 3), 0
        while not stop.is_set():
            key, body = f"w{worker}/{count:05}", os.urandom(10 << 10 if count % 10 else 600 << 10)
            try:
                mine.put_object(Bucket="dying", Key=key, Body=body)
                acknowledged[key] = digest(body)
            except Exception as error:  # noqa: BLE001: every error counts against us
                errors.append((key, repr(error)))
            count += 1

    threads = [threading.Thread(target=writer, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(3)
    cluster.fault("kill-node", 4)
    time.sleep(6)
    for key, expected in list(acknowledged.items())[-50:]:
        assert digest(s3.get_object(Bucket="dying", Key=key)["Body"].read()) == expected
    cluster.fault("start-node", 4)
    time.sleep(2)
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors, errors[:5]
    assert len(acknowledged) > 50
    fourth = cluster.s3(4)
    for key, expected in acknowledged.items():
        assert digest(fourth.get_object(Bucket="dying", Key=key)["Body"].read()) == expected, key
    assert listed(fourth, "dying") == sorted(acknowledged)
    deadline = time.monotonic() + 90
    sample = sorted(acknowledged)[:: max(1, len(acknowledged) // 25)]
    while True:
        short = [key for key in sample if not full_width(cluster, "dying", key)]
        if not short or time.monotonic() > deadline:
            break
        time.sleep(1)
    assert not short, f"not at full width: {short[:5]}: {cluster.adminctl('--json', 'object', 'locate', 'dying', short[0]).stdout}"


def full_width(cluster, bucket, key):
    """Every drive has its shard, of each part when there are several."""
    shards = json.loads(cluster.adminctl("--json", "object", "locate", bucket, key).stdout)["shards"]
    parts = max(1, len({shard.get("part") for shard in shards}))
    return len(shards) == 16 * parts and all(shard["state"] == "present" for shard in shards)


def wait_full_width(cluster, bucket, keys, seconds):
    deadline = time.monotonic() + seconds
    left = list(keys)
    while left := [key for key in left if not full_width(cluster, bucket, key)]:
        assert time.monotonic() < deadline, f"not at full width: {left}"
        time.sleep(0.5)


def test_kill_nine_of_all_and_a_lost_index(cluster):
    """kill -9 of every daemon under load, and one drive's index scribbled over: every acknowledged object is there."""
    s3 = cluster.s3(1)
    s3.create_bucket(Bucket="nine")
    acknowledged = {}
    for round_ in range(2):
        stop = threading.Event()

        def writer(worker):
            mine, count = cluster.s3(1 + worker % 4, attempts=1), 0
            while not stop.is_set():
                key, body = f"r{round_}/w{worker}/{count:05}", os.urandom(10 << 10)
                try:
                    mine.put_object(Bucket="nine", Key=key, Body=body)
                    acknowledged[key] = digest(body)
                except Exception:  # noqa: BLE001: daemons die on purpose
                    time.sleep(0.05)
                count += 1

        threads = [threading.Thread(target=writer, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(2)
        for node in (1, 2, 3, 4):
            cluster.fault("kill-node", node)
        stop.set()
        for thread in threads:
            thread.join()
        if round_ == 1:
            cluster.fault("scribble-index", 2, 3)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda n: cluster.fault("start-node", n), (1, 2, 3, 4)))
    assert len(acknowledged) > 40
    for node in (1, 3):
        s3 = cluster.s3(node)
        for key, expected in acknowledged.items():
            assert digest(s3.get_object(Bucket="nine", Key=key)["Body"].read()) == expected, key
        assert set(acknowledged) <= set(listed(s3, "nine"))


def test_adminctl_tells_what_there_is(cluster):
    """Exit 0 however ill the cluster is; JSON has every drive, and a dead node's drives are offline."""
    s3 = cluster.s3(1)
    s3.create_bucket(Bucket="told")
    s3.put_object(Bucket="told", Key="k", Body=b"x" * 100)
    info = json.loads(cluster.adminctl("--json", "cluster", "info").stdout)
    assert len(info["drives"]) == 16 and {d["state"] for d in info["drives"]} == {"healthy"}
    assert all({"node", "drive", "path", "state"} <= set(d) for d in info["drives"])
    assert full_width(cluster, "told", "k")
    assert "healthy" in cluster.adminctl("drive", "list").stdout
    cluster.fault("stop-node", 3)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        info = json.loads(cluster.adminctl("--json", "cluster", "info").stdout)
        if sum(d["state"] != "healthy" for d in info["drives"]) == 4:
            break
        time.sleep(0.5)
    assert sum(d["state"] == "offline" for d in info["drives"]) == 4, info["drives"]
    cluster.fault("start-node", 3)
