"""What is not there says so and touches nothing, asked by a stock client as new as there is. Every operation that its model of S3 has and
Holdfast has not is sent, so that a newer client asks more of this test by itself."""
import boto3, botocore.auth, botocore.awsrequest, botocore.session, pytest, urllib3
from botocore.exceptions import ClientError

SERVED = """AbortMultipartUpload CompleteMultipartUpload CopyObject CreateBucket CreateMultipartUpload DeleteBucket DeleteObject
DeleteObjects GetBucketAccelerateConfiguration GetBucketAcl GetBucketCors GetBucketEncryption GetBucketLifecycleConfiguration
GetBucketLocation GetBucketLogging GetBucketNotificationConfiguration GetBucketOwnershipControls GetBucketPolicy GetBucketPolicyStatus
GetBucketReplication GetBucketRequestPayment GetBucketTagging GetBucketVersioning GetBucketWebsite GetObject GetObjectAcl
GetObjectAttributes GetObjectLockConfiguration GetObjectTagging GetPublicAccessBlock HeadBucket HeadObject ListBuckets
ListMultipartUploads ListObjectVersions ListObjects ListObjectsV2 ListParts PutObject UploadPart UploadPartCopy""".split()


def others():
    """Method and path of what the client knows and Holdfast does not serve."""
    model = botocore.session.get_session().get_service_model("s3")
    routes = {name: (model.operation_model(name).http["method"], model.operation_model(name).http["requestUri"])
              for name in model.operation_names}
    served = {routes[name] for name in SERVED}
    return sorted((name, *route) for name, route in routes.items() if route not in served and "{Bucket}" in route[1])


def send(cluster, method, path, body=b"<X/>"):
    keys = boto3.Session(cluster.facts["access_key"], cluster.facts["secret_key"]).get_credentials()
    request = botocore.awsrequest.AWSRequest(method, cluster.endpoints[0] + path, data=body)
    request.headers["x-amz-content-sha256"] = "UNSIGNED-PAYLOAD"
    botocore.auth.S3SigV4Auth(keys, "s3", "us-east-1").add_auth(request)
    sent = request.prepare()
    with urllib3.PoolManager(ca_certs=cluster.facts["ca"]) as pool:
        return pool.request(method, sent.url, body=sent.body, headers=dict(sent.headers), retries=False)


def test_operations_that_are_not_there_touch_nothing(checked):
    """Each is answered 501 NotImplemented; object and bucket stay what they are. The story: annotations, which S3 got later than
    we did our router, were put in the place of the objects."""
    cluster, _ = checked
    s3, body = cluster.s3(1), b"precious bytes"
    s3.create_bucket(Bucket="empty")
    s3.put_object(Bucket="sums", Key="precious", Body=body)
    asked = others()
    assert len(asked) > 50, "the model of S3 was not found"
    for name, method, uri in asked:
        bucket = "sums" if "{Key+}" in uri else "empty"
        answer = send(cluster, method, uri.replace("{Bucket}", bucket).replace("{Key+}", "precious"))
        # A known name with the wrong method is the client's mistake, as with S3.
        assert answer.status == 501 or (answer.status, b"<Code>InvalidArgument<" in answer.data) == (400, True), (name, answer.data)
        assert s3.get_object(Bucket="sums", Key="precious")["Body"].read() == body, name
        s3.head_bucket(Bucket="empty")
    s3.delete_bucket(Bucket="empty")


@pytest.mark.parametrize("call, options", [
    ("put_object_annotation", {"AnnotationName": "n", "AnnotationPayload": b"note"}),
    ("delete_object_annotation", {"AnnotationName": "n"}),
    ("get_object_annotation", {"AnnotationName": "n"}),
    ("list_object_annotations", {}),
    ("update_object_encryption", {"ObjectEncryption": {"SSEKMS": {"KMSKeyArn": "arn:aws:kms:us-east-1:1:key/x"}}}),
])
def test_a_stock_client_is_told(checked, call, options):
    """The calls that destroyed objects, as a program makes them."""
    cluster, _ = checked
    s3 = cluster.s3(1, attempts=1)
    if not hasattr(s3, call):
        pytest.skip(f"this boto3 has no {call}")
    s3.put_object(Bucket="sums", Key="precious", Body=b"precious bytes")
    with pytest.raises(ClientError) as refused:
        getattr(s3, call)(Bucket="sums", Key="precious", **options)
    assert refused.value.response["Error"]["Code"] in ("NotImplemented", "InvalidArgument")
    assert s3.get_object(Bucket="sums", Key="precious")["Body"].read() == b"precious bytes"
