"""Bytes flipped in the files of real drives: served right from the others, recorded by the drive, healed to full width."""
import concurrent.futures, json, os, pathlib, time

from test_cluster import digest, full_width, listed, wait_full_width

INLINE, VOLUME = 200 << 10, 2 << 20


def drive_of(cluster, bucket, key, shard):
    """The folder of the drive that holds a shard."""
    import json
    facts = json.loads(cluster.adminctl("--json", "object", "locate", bucket, key).stdout)
    found = facts["shards"][shard]
    assert found["state"] == "present", found
    return pathlib.Path(found["path"]), found["place"]


def places(folder, sample):
    """Where bytes lie in the log segments and volumes of a drive."""
    for path in sorted(folder.glob("log/*.seg")) + sorted(folder.glob("volumes/*.vol")):
        content, at = path.read_bytes(), 0
        while (at := content.find(sample, at)) >= 0:
            yield path, at
            at += 1


def flip(path, at):
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0x20]))
        file.flush()
        os.fsync(file.fileno())


def put_all(s3, bucket, bodies):
    """Puts all, then an eighth of them again with other bytes, which `bodies` has afterwards."""
    def put(key):
        s3.put_object(Bucket=bucket, Key=key, Body=bodies[key])

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(put, bodies))
        again = [key for n, key in enumerate(bodies) if n % 8 == 0]
        bodies |= {key: os.urandom(1500) for key in again}
        list(pool.map(put, again))


def put_in_parts(s3, bucket, key, pieces):
    upload, parts = s3.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"], []
    for number, piece in enumerate(pieces, 1):
        part = s3.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=number, Body=piece)
        parts.append({"PartNumber": number, "ETag": part["ETag"]})
    s3.complete_multipart_upload(Bucket=bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": parts})


def delete_some(s3, bucket, bodies):
    """Deletes an eighth, those that were not put again, and takes them out of `bodies`."""
    gone = [key for n, key in enumerate(bodies) if n % 8 == 1]
    s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in gone]})
    for key in gone:
        del bodies[key]


def rot_runs(cluster, harmed, places_of):
    """Flips bytes in the runs of drives, where `places_of` its runs says, and has every drive read over; the nodes' logs."""
    for node, drive in harmed:
        # What a drive holds goes into a run when its node ends.
        cluster.fault("stop-node", str(node))
        runs = sorted((pathlib.Path(cluster.facts["nodes"][node - 1]["drives"][drive - 1]) / "runs").glob("*.run"))
        assert runs, "no run to rot"
        for run, at in places_of(runs):
            flip(run, at)
        cluster.fault("start-node", str(node))
    cluster.adminctl("scrub", "rate", str(256 << 20))
    cluster.adminctl("scrub", "start")
    return [pathlib.Path(cluster.dir) / f"node{node}" / "log" for node, _ in harmed]


def assert_served_everywhere(cluster, bucket, bodies):
    """Every node lists what is there, and nothing else, and serves each byte of it."""
    for node in (1, 2, 3, 4):
        s3 = cluster.s3(node)
        assert listed(s3, bucket) == sorted(bodies), node
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            found = pool.map(lambda key: digest(s3.get_object(Bucket=bucket, Key=key)["Body"].read()), bodies)
            assert list(found) == [digest(body) for body in bodies.values()], node


def test_rot_is_served_around_and_healed(cluster):
    """The first data shard of each object rots; every node serves it right; the drive has a whole copy again."""
    s3 = cluster.s3(1)
    s3.create_bucket(Bucket="rotten")
    bodies = {f"{kind}/{n}": os.urandom(size) for kind, size in (("log", INLINE), ("volume", VOLUME)) for n in range(4)}
    for key, body in bodies.items():
        s3.put_object(Bucket="rotten", Key=key, Body=body)
    wait_full_width(cluster, "rotten", bodies, 30)
    harmed = {}
    for key, body in bodies.items():
        # Shard 0 begins with the body's first bytes.
        folder, place = drive_of(cluster, "rotten", key, 0)
        assert place == ("inline" if key.startswith("log") else "volume")
        found = list(places(folder, body[:2048]))
        assert found, f"{key}: no copy in {folder}"
        for path, at in found:
            flip(path, at + 1000)
        assert not list(places(folder, body[:2048]))
        harmed[key] = folder
    deadline = time.monotonic() + 60
    while harmed:
        for node in (1, 2, 3, 4):
            for key, body in bodies.items():
                got = cluster.s3(node).get_object(Bucket="rotten", Key=key)["Body"].read()
                assert digest(got) == digest(body), (node, key)
        for key, folder in list(harmed.items()):
            if full_width(cluster, "rotten", key) and list(places(folder, bodies[key][:2048])):
                del harmed[key]
        assert time.monotonic() < deadline, f"not healed: {harmed}"
        time.sleep(0.5)


def test_rot_in_a_part_of_an_object_heals(cluster):
    """One shard of each part of a completed object rots; every node serves it right; whole copies come back."""
    s3 = cluster.s3(1)
    s3.create_bucket(Bucket="parts")
    bodies = [os.urandom(5 << 20), os.urandom(5 << 20), os.urandom(INLINE)]
    put_in_parts(s3, "parts", "multi", bodies)
    time.sleep(8)  # the parts' own registers are freed soon after the completion
    drives = [pathlib.Path(path) for node in cluster.facts["nodes"] for path in node["drives"]]
    # Shard 0 of a part begins with the part's first bytes.
    samples = [body[:2048] for body in bodies]
    for sample in samples:
        found = [place for drive in drives for place in places(drive, sample)]
        assert found, "the sample lies on no drive"
        for path, at in found:
            flip(path, at + 1000)
    deadline = time.monotonic() + 60
    while samples:
        for node in (1, 2, 3, 4):
            got = cluster.s3(node).get_object(Bucket="parts", Key="multi")["Body"].read()
            assert digest(got) == digest(b"".join(bodies)), node
        samples = [sample for sample in samples if not any(True for drive in drives for _ in places(drive, sample))]
        assert time.monotonic() < deadline, f"{len(samples)} parts not healed"
        time.sleep(0.5)


def test_rot_in_a_run_heals(cluster):
    """Blocks of registers rot in the runs of two drives of one set: both are filled from the others, at full width again,
    and nothing that was deleted or overwritten comes back."""
    s3 = cluster.s3(1)
    s3.create_bucket(Bucket="runs")
    bodies = {f"run/{n:06}": os.urandom(2000) for n in range(800)}
    put_all(s3, "runs", bodies)
    delete_some(s3, "runs", bodies)
    wait_full_width(cluster, "runs", list(bodies)[::50], 60)
    logs = rot_runs(cluster, ((2, 1), (3, 2)), lambda runs: [
        (runs[0], runs[0].stat().st_size * part // 100) for part in (15, 40)])
    deadline = time.monotonic() + 90
    while not all("ranges of rot are filled" in log.read_text() for log in logs):
        assert time.monotonic() < deadline, [log.read_text()[-2000:] for log in logs]
        time.sleep(0.5)
    told = {row["drive"]: row for row in json.loads(cluster.adminctl("--json", "drive", "list").stdout)}
    assert all(row["state"] == "healthy" for row in told.values()), told
    wait_full_width(cluster, "runs", list(bodies)[::7], 60)
    assert_served_everywhere(cluster, "runs", bodies)
    # What is left is deleted like anything else, and the bucket is empty.
    keys = list(bodies)
    for at in range(0, len(keys), 500):
        batch = {"Objects": [{"Key": key} for key in keys[at : at + 500]]}
        assert not cluster.s3(2).delete_objects(Bucket="runs", Delete=batch).get("Errors")
    assert listed(cluster.s3(3), "runs") == []
    cluster.s3(4).delete_bucket(Bucket="runs")


def varint(data, at):
    """A number in LEB128, and where it ends."""
    number = shift = 0
    while True:
        byte, at = data[at], at + 1
        number, shift = number | (byte & 0x7F) << shift, shift + 7
        if byte < 0x80:
            return number, at


def blocks_of_places(run):
    """Offsets of a run's blocks that hold places alone (docs/format/index.md)."""
    data = run.read_bytes()
    footer = data[-160:]
    count, at = (int.from_bytes(footer[where : where + 8], "big") for where in (48, 72))
    fences = []
    for _ in range(count):
        offset, at = varint(data, at)
        _, at = varint(data, at)
        length, at = varint(data, at)
        fences.append((offset, data[at]))
        at += length + 28
    return [offset for (offset, kind), (_, after) in zip(fences, fences[1:] + [(0, 0x81)]) if kind == after == 0x81]


def test_rot_of_places_heals(cluster):
    """Blocks rot in the runs of two drives of one set that say where shards lie: each drive finds out by itself whose shards
    these were, the healer brings them, and the drives have nothing on record of it in the end."""
    s3 = cluster.s3(1)
    s3.create_bucket(Bucket="places")
    bodies = {f"place/{n:06}": os.urandom(2000) for n in range(900)}
    bodies |= {f"large/{n}": os.urandom(VOLUME) for n in range(12)}
    put_all(s3, "places", bodies)
    pieces = [os.urandom(5 << 20), os.urandom(5 << 20), os.urandom(INLINE)]
    put_in_parts(s3, "places", "multi", pieces)
    bodies["multi"] = b"".join(pieces)
    delete_some(s3, "places", bodies)
    plain = [key for key in bodies if key != "multi"]
    wait_full_width(cluster, "places", plain[::50], 60)

    def two_blocks(runs):
        found = [(run, offset + 100) for run in runs for offset in blocks_of_places(run)]
        assert len(found) > 3, runs
        return found[0], found[2]

    logs = rot_runs(cluster, ((2, 1), (3, 2)), two_blocks)
    told, deadline = set(), time.monotonic() + 120
    while not all("ranges of rot are healed" in log.read_text() for log in logs):
        rows = json.loads(cluster.adminctl("--json", "drive", "list").stdout)
        told |= {row["drive"] for row in rows if "rot in its records" in row["detail"]}
        for node in (1, 2, 3, 4):
            key = plain[(len(told) * 7 + node) % len(plain)]
            got = cluster.s3(node).get_object(Bucket="places", Key=key)["Body"].read()
            assert digest(got) == digest(bodies[key]), (node, key)
        assert time.monotonic() < deadline, [log.read_text()[-2000:] for log in logs]
    for log in logs:
        assert "places and chores that rot hid are known again" in log.read_text()
        assert "all that is held was counted anew" in log.read_text()
    assert told, "the operator is told"
    wait_full_width(cluster, "places", plain, 120)
    rows = json.loads(cluster.adminctl("--json", "drive", "list").stdout)
    assert all((row["state"], row["detail"]) == ("healthy", "") for row in rows), rows
    assert_served_everywhere(cluster, "places", bodies)
    # The count of what is live is right again: a pass owes nothing in the end.
    from test_scrub import a_pass, status

    deadline = time.monotonic() + 60
    while any(row["state"] != "idle" for row in status(cluster)):
        assert time.monotonic() < deadline
        time.sleep(0.3)
    done = a_pass(cluster)
    assert all(one["complete"] and one["found"] == 0 for one in done), done
