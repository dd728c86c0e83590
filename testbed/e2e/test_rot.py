"""Bytes flipped in the files of real drives: served right from the others, recorded by the drive, healed to full width."""
import os, pathlib, time

from test_cluster import digest, full_width, wait_full_width

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
    upload = s3.create_multipart_upload(Bucket="parts", Key="multi")["UploadId"]
    bodies, parts = [os.urandom(5 << 20), os.urandom(5 << 20), os.urandom(INLINE)], []
    for number, body in enumerate(bodies, 1):
        part = s3.upload_part(Bucket="parts", Key="multi", UploadId=upload, PartNumber=number, Body=body)
        parts.append({"PartNumber": number, "ETag": part["ETag"]})
    s3.complete_multipart_upload(Bucket="parts", Key="multi", UploadId=upload, MultipartUpload={"Parts": parts})
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
