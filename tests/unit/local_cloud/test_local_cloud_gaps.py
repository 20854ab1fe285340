"""What moto lacks and the embedded AWS has."""

from __future__ import annotations

import http.client
import json
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

AMI = "ami-0c4e02d5d1f0a2601"
RACERS = 20
PARAMETER = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id"


def outcome(call: Callable[[], Any]) -> str:
    try:
        call()
    except ClientError as error:
        return f"{error.response['ResponseMetadata']['HTTPStatusCode']} {error.response['Error']['Code']}"
    return "done"


def race(call: Callable[[int], Any]) -> Counter[str]:
    with ThreadPoolExecutor(RACERS) as pool:
        return Counter(pool.map(lambda number: outcome(lambda: call(number)), range(RACERS)))


def stage(cloud: Any, bucket: str) -> None:
    cloud.bucket(bucket)
    for number in range(RACERS):
        cloud.s3.put_object(Bucket=bucket, Key=f"staged-{number}", Body=f"writer {number}".encode())


def copy(cloud: Any, bucket: str, number: int, **condition: str) -> None:
    source = {"Bucket": bucket, "Key": f"staged-{number}"}
    cloud.s3.copy_object(Bucket=bucket, Key="state", CopySource=source, **condition)


def test_of_many_create_only_copies_exactly_one_wins(cloud: Any) -> None:
    stage(cloud, "copy-create")
    lost = "412 PreconditionFailed"
    assert race(lambda n: copy(cloud, "copy-create", n, IfNoneMatch="*")) == {"done": 1, lost: RACERS - 1}


def test_of_many_copies_that_name_the_same_etag_exactly_one_wins(cloud: Any) -> None:
    stage(cloud, "copy-update")
    seen = cloud.s3.put_object(Bucket="copy-update", Key="state", Body=b"first")["ETag"]
    lost = "412 PreconditionFailed"
    assert race(lambda n: copy(cloud, "copy-update", n, IfMatch=seen)) == {"done": 1, lost: RACERS - 1}


def test_of_many_create_only_puts_exactly_one_wins(cloud: Any) -> None:
    bucket = cloud.bucket("put-create")
    answers = race(lambda n: cloud.s3.put_object(Bucket=bucket, Key="state", Body=b"%d" % n, IfNoneMatch="*"))
    assert answers == {"done": 1, "412 PreconditionFailed": RACERS - 1}


def test_of_many_conditional_deletes_exactly_one_deletes(cloud: Any) -> None:
    bucket = cloud.bucket("delete-once")
    seen = cloud.s3.put_object(Bucket=bucket, Key="state", Body=b"x")["ETag"]
    answers = race(lambda _: cloud.s3.delete_object(Bucket=bucket, Key="state", IfMatch=seen))
    assert answers == {"done": 1, "404 NoSuchKey": RACERS - 1}


def test_writes_of_a_bucket_never_overlap_and_those_of_two_buckets_do() -> None:
    from chronos_ec2.local_cloud.gaps.conditional_writes import BucketLocks, _locked

    inside, most = Counter[str](), Counter[str]()

    def write(response: SimpleNamespace) -> None:
        for name in (response.bucket_name, "any"):
            inside[name] += 1
            most[name] = max(most[name], inside[name])
        time.sleep(0.02)
        for name in (response.bucket_name, "any"):
            inside[name] -= 1

    locked = _locked(BucketLocks(), False, write)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(locked, [SimpleNamespace(bucket_name=name) for name in ("a", "b") * 4]))
    assert most == {"a": 1, "b": 1, "any": 2}


def test_if_match_on_a_missing_key_is_404(cloud: Any) -> None:
    stage(cloud, "copy-missing")
    assert outcome(lambda: copy(cloud, "copy-missing", 1, IfMatch='"abc"')) == "404 NoSuchKey"


def test_a_refused_copy_changes_nothing_and_delete_checks_the_etag(cloud: Any) -> None:
    stage(cloud, "refused")
    cloud.s3.put_object(Bucket="refused", Key="state", Body=b"kept")
    assert outcome(lambda: copy(cloud, "refused", 1, IfMatch='"abc"')) == "412 PreconditionFailed"
    assert outcome(lambda: copy(cloud, "refused", 1, IfNoneMatch="*")) == "412 PreconditionFailed"
    delete = cloud.s3.delete_object
    assert outcome(lambda: delete(Bucket="refused", Key="state", IfMatch='"abc"')) == "412 PreconditionFailed"
    assert cloud.s3.get_object(Bucket="refused", Key="state")["Body"].read() == b"kept"


@pytest.mark.parametrize(
    ("condition", "expected"),
    [({"IfMatch": '"abc"'}, "412 PreconditionFailed"), ({"IfNoneMatch": "*"}, "412 PreconditionFailed")],
)
def test_a_multipart_upload_completes_under_its_condition(
    cloud: Any, condition: dict[str, str], expected: str
) -> None:
    bucket = cloud.bucket(f"multipart-{next(iter(condition)).lower()}")
    cloud.s3.put_object(Bucket=bucket, Key="k", Body=b"kept")
    upload = cloud.s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    part = cloud.s3.upload_part(Bucket=bucket, Key="k", UploadId=upload, PartNumber=1, Body=b"new")
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    complete = cloud.s3.complete_multipart_upload
    target = {"Bucket": bucket, "Key": "k", "UploadId": upload, "MultipartUpload": parts}
    assert outcome(lambda: complete(**target, **condition)) == expected
    assert cloud.s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"kept"
    assert outcome(lambda: complete(**target)) == "done"


def test_virtual_host_addresses_are_checked_too(cloud: Any) -> None:
    stage(cloud, "virtual-host")
    scope = (
        "AWS4-HMAC-SHA256 Credential=test/20261123/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=x"
    )
    host = {"Host": "virtual-host.s3.amazonaws.com", "Authorization": scope}
    host["x-amz-copy-source"] = "virtual-host/staged-1"
    answers = []
    for _ in range(2):
        connection = http.client.HTTPConnection("127.0.0.1", cloud.endpoint.port)
        connection.request("PUT", "/state", headers={**host, "If-None-Match": "*"})
        response = connection.getresponse()
        answers.append((response.status, b"<Code>PreconditionFailed</Code>" in response.read()))
        connection.close()
    assert answers == [(200, False), (412, True)]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("bytes=0-3", (206, b"0123", "bytes 0-3/10")),
        ("bytes=4-", (206, b"456789", "bytes 4-9/10")),
        ("bytes=8-99", (206, b"89", "bytes 8-9/10")),
        ("bytes=-2", (206, b"89", "bytes 8-9/10")),
        ("bytes=0-9", (206, b"0123456789", "bytes 0-9/10")),
        ("bytes=5-2", (200, b"0123456789", None)),
    ],
)
def test_ranges_are_read_as_asked(cloud: Any, asked: str, expected: tuple[int, bytes, str | None]) -> None:
    bucket = cloud.bucket("ranges")
    etag = cloud.s3.put_object(Bucket=bucket, Key="k", Body=b"0123456789")["ETag"]
    answer = cloud.s3.get_object(Bucket=bucket, Key="k", Range=asked, IfMatch=etag)
    status = answer["ResponseMetadata"]["HTTPStatusCode"]
    assert (status, answer["Body"].read(), answer.get("ContentRange")) == expected
    read = cloud.s3.get_object
    assert outcome(lambda: read(Bucket=bucket, Key="k", Range="bytes=10-")) == "416 InvalidRange"
    assert outcome(lambda: read(Bucket=bucket, Key="k", Range=asked, IfMatch='"x"')).startswith("412")
    assert outcome(lambda: read(Bucket=bucket, Key="none", Range=asked)) == "404 NoSuchKey"
    assert read(Bucket=bucket, Key="k")["Body"].read() == b"0123456789"


def test_a_repeated_client_token_launches_once(cloud: Any) -> None:
    first = cloud.boot("", ClientToken="token-1")
    assert cloud.boot("", ClientToken="token-1") == first
    other = outcome(lambda: cloud.boot("", ClientToken="token-1", InstanceType="g5.2xlarge"))
    assert other == "400 IdempotentParameterMismatch"
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: cloud.boot("", ClientToken="token-2"), range(8)))) == 1
    assert cloud.boot("", ClientToken="token-3") not in (first, cloud.boot("", ClientToken="token-2"))


def test_a_refused_launch_does_not_use_its_token_up(cloud: Any) -> None:
    refused = outcome(lambda: cloud.boot("", ClientToken="token-4", ImageId="ami-12345678"))
    assert refused == "400 InvalidAMIID.NotFound"
    assert cloud.boot("", ClientToken="token-4").startswith("i-")


def test_unknown_instance_types_are_refused(cloud: Any) -> None:
    assert outcome(lambda: cloud.boot("", InstanceType="g9.huge")).startswith("400 Invalid")


def test_the_console_keeps_its_last_64_kilobytes(cloud: Any, eventually: Callable[..., bool]) -> None:
    script = "#!/bin/bash\necho begin\nseq 1 20000\necho the end >&2\n"
    instance = cloud.boot(script)
    assert eventually(lambda: "the end" in cloud.console(instance))
    output = cloud.console(instance)
    assert len(output.encode()) == 64 * 1024
    assert "begin" not in output


def test_the_public_parameter_names_the_newest_image_by_date(cloud: Any) -> None:
    ami = cloud.client("ssm").get_parameter(Name=PARAMETER)["Parameter"]["Value"]
    name = {"Name": "name", "Values": ["Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 24.04) *"]}
    images = cloud.ec2.describe_images(Owners=["amazon"], Filters=[name])["Images"]
    newest = max(images, key=lambda image: image["CreationDate"])
    assert newest["ImageId"] == ami == AMI
    assert len(images) == 3
    assert newest["Name"] != max(image["Name"] for image in images), "sorting by name must be caught"
    assert newest["RootDeviceName"] == "/dev/sda1"
    assert newest["ImageOwnerAlias"] == "amazon"


NETWORK = {
    "Vpc": {"Type": "AWS::EC2::VPC", "Properties": {"CidrBlock": "10.9.0.0/16"}},
    "Subnet": {
        "Type": "AWS::EC2::Subnet",
        "Properties": {"VpcId": {"Ref": "Vpc"}, "CidrBlock": "10.9.1.0/24"},
    },
    "Gateway": {"Type": "AWS::EC2::InternetGateway", "Properties": {}},
    "Attachment": {
        "Type": "AWS::EC2::VPCGatewayAttachment",
        "Properties": {"VpcId": {"Ref": "Vpc"}, "InternetGatewayId": {"Ref": "Gateway"}},
    },
    "Table": {"Type": "AWS::EC2::RouteTable", "Properties": {"VpcId": {"Ref": "Vpc"}}},
    "Association": {
        "Type": "AWS::EC2::SubnetRouteTableAssociation",
        "Properties": {"RouteTableId": {"Ref": "Table"}, "SubnetId": {"Ref": "Subnet"}},
    },
    "Route": {
        "Type": "AWS::EC2::Route",
        "DependsOn": ["Attachment"],
        "Properties": {
            "RouteTableId": {"Ref": "Table"},
            "DestinationCidrBlock": "0.0.0.0/0",
            "GatewayId": {"Ref": "Gateway"},
        },
    },
    "Endpoint": {
        "Type": "AWS::EC2::VPCEndpoint",
        "Properties": {
            "VpcId": {"Ref": "Vpc"},
            "ServiceName": "com.amazonaws.us-east-1.s3",
            "VpcEndpointType": "Gateway",
            "RouteTableIds": [{"Ref": "Table"}],
        },
    },
    "Group": {
        "Type": "AWS::EC2::SecurityGroup",
        "Properties": {"VpcId": {"Ref": "Vpc"}, "GroupDescription": "x", "GroupName": "StackTestSG"},
    },
    "Bucket": {
        "Type": "AWS::S3::Bucket",
        "DeletionPolicy": "Retain",
        "Properties": {"Tags": [{"Key": "a", "Value": "1"}]},
    },
}


def template(bucket_tag: str, exported: str) -> str:
    resources = json.loads(json.dumps(NETWORK))
    resources["Bucket"]["Properties"]["Tags"][0]["Value"] = bucket_tag
    resources["Endpoint"]["Properties"]["PolicyDocument"] = {"Version": bucket_tag}
    outputs = {"Out": {"Value": {"Ref": exported}, "Export": {"Name": "StackTest-Out"}}}
    return json.dumps({"Resources": resources, "Outputs": outputs})


def exports(cloudformation: Any) -> dict[str, str]:
    return {item["Name"]: item["Value"] for item in cloudformation.list_exports()["Exports"]}


def test_a_stack_with_a_network_is_updated_and_deleted_and_its_bucket_stays(cloud: Any) -> None:
    cloudformation = cloud.client("cloudformation")
    vpcs_before = {vpc["VpcId"] for vpc in cloud.ec2.describe_vpcs()["Vpcs"]}
    stack_id = cloudformation.create_stack(StackName="Net", TemplateBody=template("1", "Bucket"))["StackId"]
    bucket = exports(cloudformation)["StackTest-Out"]
    cloudformation.update_stack(StackName="Net", TemplateBody=template("2", "Subnet"))
    subnet = exports(cloudformation)["StackTest-Out"]
    assert subnet.startswith("subnet-")
    assert cloud.s3.get_bucket_tagging(Bucket=bucket)["TagSet"][0]["Value"] == "2"

    instance = cloud.boot("", SubnetId=subnet)
    cloudformation.delete_stack(StackName="Net")
    failed = cloudformation.describe_stacks(StackName="Net")["Stacks"][0]
    assert failed["StackStatus"] == "DELETE_FAILED"
    events = cloudformation.describe_stack_events(StackName="Net")["StackEvents"]
    assert any("has dependencies" in event.get("ResourceStatusReason", "") for event in events)
    assert exports(cloudformation) == {"StackTest-Out": subnet}

    cloud.ec2.terminate_instances(InstanceIds=[instance])
    assert cloud.ends_as(instance, "terminated")
    cloudformation.delete_stack(StackName="Net")
    gone = cloudformation.describe_stacks(StackName=stack_id)["Stacks"][0]
    assert gone["StackStatus"] == "DELETE_COMPLETE"
    assert exports(cloudformation) == {}
    assert {vpc["VpcId"] for vpc in cloud.ec2.describe_vpcs()["Vpcs"]} == vpcs_before
    groups = cloud.ec2.describe_security_groups()["SecurityGroups"]
    assert "StackTestSG" not in [group["GroupName"] for group in groups]
    assert cloud.ec2.describe_internet_gateways()["InternetGateways"] == []
    assert bucket in [found["Name"] for found in cloud.s3.list_buckets()["Buckets"]]
