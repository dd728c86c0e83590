"""Checksums as stock clients send them: over http in headers, over https in trailers of an aws-chunked body."""
import base64, hashlib, os, zlib

import pytest
from botocore.exceptions import ClientError

KINDS = ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"]


def known(kind, body):
    """What Python's own library can compute."""
    digests = {"CRC32": lambda: zlib.crc32(body).to_bytes(4, "big"), "SHA1": lambda: hashlib.sha1(body).digest(),
               "SHA256": lambda: hashlib.sha256(body).digest()}
    return base64.b64encode(digests[kind]()).decode() if kind in digests else None


def watched(s3):
    """The headers of each PUT as they leave the client."""
    seen = []
    s3.meta.events.register("before-send.s3.PutObject", lambda request, **_: seen.append(dict(request.headers)))
    s3.meta.events.register("before-send.s3.UploadPart", lambda request, **_: seen.append(dict(request.headers)))
    return seen


class Stream:
    """A body that is read once, in pieces, as a pipe is."""

    def __init__(self, body):
        self.body, self.at = body, 0

    def read(self, size=-1):
        end = len(self.body) if size is None or size < 0 else self.at + size
        piece, self.at = self.body[self.at:end], min(end, len(self.body))
        return piece

    def seek(self, at, whence=0):
        self.at = {0: 0, 1: self.at, 2: len(self.body)}[whence] + at

    def tell(self):
        return self.at


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_goes_in_and_comes_back(checked, kind):
    """Small, block-sized and multi-chunk bodies; over TLS the checksum travels as a trailer; reads verify it."""
    cluster, tls = checked
    s3 = cluster.s3(1)
    seen = watched(s3)
    header = f"x-amz-checksum-{kind.lower()}"
    for size in (0, 5, 65_536, 3_000_001):
        key, body = f"{kind}/{size}", os.urandom(size)
        put = s3.put_object(Bucket="sums", Key=key, Body=Stream(body), ChecksumAlgorithm=kind)
        value = put[f"Checksum{kind}"]
        assert known(kind, body) in (None, value)
        sent = {name.lower(): text if isinstance(text, str) else text.decode() for name, text in seen[-1].items()}
        if tls:
            assert sent["x-amz-trailer"] == header and sent["x-amz-content-sha256"] == "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
            assert sent["content-encoding"] == "aws-chunked" and header not in sent
        got = cluster.s3(2).get_object(Bucket="sums", Key=key, ChecksumMode="ENABLED")
        assert got["Body"].read() == body and got[f"Checksum{kind}"] == value
        assert "ContentEncoding" not in got, "aws-chunked is the transport's, not the object's"
        assert cluster.s3(1).head_object(Bucket="sums", Key=key, ChecksumMode="ENABLED")[f"Checksum{kind}"] == value


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_checksum_is_refused_and_nothing_is_stored(checked, kind):
    """The trailer (or header) is changed on its way: the answer is an error, the key stays absent."""
    cluster, _ = checked
    s3 = cluster.s3(1, attempts=1)
    wrong = base64.b64encode(bytes({"CRC32": 4, "CRC32C": 4, "CRC64NVME": 8, "SHA1": 20, "SHA256": 32}[kind])).decode()
    with pytest.raises(ClientError) as refused:
        s3.put_object(Bucket="sums", Key=f"wrong/{kind}", Body=b"some bytes", **{f"Checksum{kind}": wrong})
    assert refused.value.response["Error"]["Code"] in ("BadDigest", "InvalidRequest", "XAmzContentChecksumMismatch")

    def spoil(request, **_):
        if hasattr(request.body, "_checksum"):
            request.body._checksum.digest = lambda: bytes(len(base64.b64decode(wrong)))
            request.body._checksum.b64digest = lambda: wrong
    s3.meta.events.register("before-send.s3.PutObject", spoil)
    if cluster.facts["ca"]:
        with pytest.raises(ClientError) as refused:
            s3.put_object(Bucket="sums", Key=f"wrong/{kind}", Body=Stream(b"some bytes"), ChecksumAlgorithm=kind)
        assert refused.value.response["Error"]["Code"] == "BadDigest", refused.value.response
    with pytest.raises(ClientError) as absent:
        s3.head_object(Bucket="sums", Key=f"wrong/{kind}")
    assert absent.value.response["ResponseMetadata"]["HTTPStatusCode"] == 404


@pytest.mark.parametrize("kind", KINDS)
def test_parts_carry_checksums_too(checked, kind):
    cluster, tls = checked
    s3 = cluster.s3(1)
    seen, key, bodies = watched(s3), f"parts/{kind}", [os.urandom(5 << 20), os.urandom(777)]
    upload = s3.create_multipart_upload(Bucket="sums", Key=key, ChecksumAlgorithm=kind)["UploadId"]
    parts = []
    for number, body in enumerate(bodies, 1):
        part = s3.upload_part(Bucket="sums", Key=key, UploadId=upload, PartNumber=number, Body=Stream(body), ChecksumAlgorithm=kind)
        parts.append({"PartNumber": number, "ETag": part["ETag"], f"Checksum{kind}": part[f"Checksum{kind}"]})
        assert known(kind, body) in (None, part[f"Checksum{kind}"])
    assert not tls or all("X-Amz-Trailer" in sent or "x-amz-trailer" in sent for sent in seen)
    done = s3.complete_multipart_upload(Bucket="sums", Key=key, UploadId=upload, MultipartUpload={"Parts": parts})
    assert done["Location"].startswith("https://" if tls else "http://")
    got = cluster.s3(2).get_object(Bucket="sums", Key=key)["Body"].read()
    assert got == b"".join(bodies)


def test_tools_speak_tls(checked):
    """adminctl and bench reach the cluster the same way as clients do."""
    import json
    cluster, _ = checked
    info = json.loads(cluster.adminctl("--json", "cluster", "info").stdout)
    assert {d["state"] for d in info["drives"]} == {"healthy"}
    put = cluster.bench("put", "--objects", 50, "--size", "20KiB", "--concurrency", 4)
    get = cluster.bench("get", "--objects", 50, "--size", "20KiB", "--concurrency", 4)
    assert (put["errors"], get["errors"], get["corrupt"], get["operations"]) == (0, 0, 0, 50)
