"""The stack: exports, profile, switch, topic; its bucket; its network."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from chronos_ec2.workstation.doctor.findings import Level

from .case import Case, as_is, verify
from .fake_aws import refusal
from .world import BUCKET, HTTPS, TOPIC, World, allow, route_table, subnet

OK, WARNING, ERROR = Level.OK, Level.WARNING, Level.ERROR
DEPLOY = "invoke deploy --env dev"
ANEW = "invoke destroy --env dev && invoke deploy --env dev && invoke upload --env dev --data DIR"
ENCRYPT = '\'{"Rules":[{"ApplyServerSideEncryptionByDefault":{"SSEAlgorithm":"AES256"}}]}\''


def answer(service: str, operation: str, value: Any) -> Callable[[World], object]:
    return lambda world: world.plan.update({(service, operation): value})


def changed(service: str, operation: str, key: str, **values: Any) -> Callable[[World], object]:
    """Change the first item of an answer's list."""
    return lambda world: world.plan[service, operation][key][0].update(values)


def without_exports(*names: str) -> Callable[[World], object]:
    def arrange(world: World) -> None:
        exports = world.plan["cloudformation", "list_exports"]["Exports"]
        exports[:] = [one for one in exports if one["Name"].removeprefix("ChronosTraining-") not in names]

    return arrange


def another_stack_alone(world: World) -> None:
    world.plan["cloudformation", "list_exports"] = {"Exports": [{"Name": "Other-BucketName", "Value": "x"}]}


def policy(*statements: dict[str, Any]) -> Callable[[World], object]:
    return answer("iam", "get_role_policy", {"PolicyDocument": {"Statement": list(statements)}})


def without_switch(world: World) -> None:
    world.set(outside_switch=False)


def subscriptions(confirmed: int, pending: int, address: str = "") -> Callable[[World], object]:
    def arrange(world: World) -> None:
        world.set(notify_email=address)
        counts = {"SubscriptionsConfirmed": str(confirmed), "SubscriptionsPending": str(pending)}
        world.plan["sns", "get_topic_attributes"] = {"Attributes": counts}

    return arrange


def open_bucket(world: World) -> None:
    block = world.plan["s3", "get_public_access_block"]["PublicAccessBlockConfiguration"]
    block["BlockPublicPolicy"] = block["RestrictPublicBuckets"] = False


def careless(*operations: str) -> Callable[[World], object]:
    return lambda world: world.s3.careless.update(operations)


def tables(*found: dict[str, Any]) -> Callable[[World], object]:
    return answer("ec2", "describe_route_tables", {"RouteTables": list(found)})


def cut_off(world: World) -> None:
    tables(route_table("rtb-1", "subnet-a", "subnet-b", out=False))(world)
    world.plan["ec2", "describe_internet_gateways"] = {"InternetGateways": []}


def black_hole(world: World) -> None:
    table = route_table("rtb-1", "subnet-a", "subnet-b")
    table["Routes"][1]["State"] = "blackhole"
    tables(table)(world)


def full_subnet(world: World, left: int = 0) -> None:
    full = [subnet("subnet-b", "us-east-1b", AvailableIpAddressCount=left), subnet("subnet-a", "us-east-1a")]
    world.plan["ec2", "describe_subnets"] = {"Subnets": full}


def egress(*rules: dict[str, Any]) -> Callable[[World], object]:
    return changed("ec2", "describe_security_groups", "SecurityGroups", IpPermissionsEgress=list(rules))


PUBLIC = (
    f"aws s3api put-public-access-block --bucket {BUCKET} --public-access-block-configuration "
    "BlockPublicAcls=true,IgnorePublicAcls=true,BlockPublicPolicy=true,RestrictPublicBuckets=true"
)
ALLOW_HTTPS = (
    "aws ec2 authorize-security-group-egress --group-id sg-1 --protocol tcp --port 443 --cidr 0.0.0.0/0"
)
ROUTE = "aws ec2 create-route --route-table-id rtb-1 --destination-cidr-block 0.0.0.0/0 --gateway-id igw-1"
OTHER_S3 = "aws configure list (is AWS_ENDPOINT_URL another S3 than AWS's in us-east-1?)"
WRITES = "conditional writes"
CASES = [
    Case("exports", "all there", as_is, OK, "all 8 of them"),
    Case(
        "exports", "of another stack alone", another_stack_alone, ERROR, "not deployed in us-east-1", DEPLOY
    ),
    Case(
        "exports",
        "of an older stack",
        without_exports("TopicArn", "ScheduleGroupName"),
        ERROR,
        "older than this checkout: no ScheduleGroupName, TopicArn",
        DEPLOY,
    ),
    Case(
        "instance profile", "with its role", as_is, OK, "TheProfile with role TheRole, which may write dev/"
    ),
    Case(
        "instance profile",
        "gone",
        answer("iam", "get_instance_profile", refusal("NoSuchEntity")),
        ERROR,
        "instance profile TheProfile does not exist",
        ANEW,
    ),
    Case(
        "instance profile",
        "empty",
        answer("iam", "get_instance_profile", {"InstanceProfile": {"Roles": []}}),
        ERROR,
        "has no role in it",
        ANEW,
    ),
    Case(
        "instance profile",
        "of a stack that does not know the environment",
        policy(allow("s3:PutObject", f"arn:aws:s3:::{BUCKET}/prod/*"), allow("s3:GetObject", "*")),
        ERROR,
        f"role TheRole may not write s3://{BUCKET}/dev/; the environment is newer than the stack",
        DEPLOY,
    ),
    Case("outside switch", "ready", as_is, OK, "schedule group ChronosTraining"),
    Case(
        "outside switch",
        "off",
        without_switch,
        WARNING,
        "outside_switch is off",
        "set outside_switch: true in invoke.yaml",
    ),
    Case(
        "outside switch",
        "without its group",
        answer("scheduler", "get_schedule_group", refusal("ResourceNotFoundException", "no group")),
        ERROR,
        "gone from the stack: no group",
        ANEW,
    ),
    Case(
        "outside switch",
        "without its role",
        answer("iam", "get_role", refusal("NoSuchEntity", "no role")),
        ERROR,
        "gone from the stack: no role",
        ANEW,
    ),
    Case(
        "outside switch",
        "being deleted",
        answer("scheduler", "get_schedule_group", {"State": "DELETING"}),
        ERROR,
        "schedule group ChronosTraining is DELETING",
        ANEW,
    ),
    Case("notices", "with a listener", as_is, OK, "topic ChronosTraining, 1 listening"),
    Case("notices", "that nobody asked for", subscriptions(0, 0), OK, "topic ChronosTraining, 0 listening"),
    Case(
        "notices",
        "to be confirmed",
        subscriptions(1, 1),
        WARNING,
        "1 of 2 subscriptions of topic ChronosTraining wait",
        "open the link in the mail from AWS Notifications",
    ),
    Case(
        "notices",
        "deployed without the address",
        subscriptions(0, 0, "ana@example.com"),
        WARNING,
        "nobody listens to topic ChronosTraining, not even ana@example.com",
        DEPLOY,
    ),
    Case(
        "notices",
        "without their topic",
        answer("sns", "get_topic_attributes", refusal("NotFound")),
        ERROR,
        f"topic {TOPIC} does not exist",
        ANEW,
    ),
    Case("bucket", "there", as_is, OK, BUCKET),
    Case("bucket", "gone", answer("s3", "head_bucket", refusal("404")), ERROR, "does not exist", ANEW),
    Case(
        "bucket",
        "elsewhere",
        answer("s3", "head_bucket", {"BucketRegion": "eu-west-1"}),
        ERROR,
        "the-bucket lies in eu-west-1, not in us-east-1",
        "set region in invoke.yaml",
    ),
    Case("bucket privacy", "kept", as_is, OK, "closed to the public, encrypted (AES256)"),
    Case(
        "bucket privacy",
        "half open",
        open_bucket,
        ERROR,
        "BlockPublicPolicy, RestrictPublicBuckets off",
        PUBLIC,
    ),
    Case(
        "bucket privacy",
        "never set",
        answer("s3", "get_public_access_block", refusal("NoSuchPublicAccessBlockConfiguration")),
        ERROR,
        "can be made public: BlockPublicAcls",
        PUBLIC,
    ),
    Case(
        "bucket privacy",
        "unencrypted",
        answer("s3", "get_bucket_encryption", refusal("ServerSideEncryptionConfigurationNotFoundError")),
        WARNING,
        "names no default encryption",
        f"aws s3api put-bucket-encryption --bucket {BUCKET} --server-side-encryption-configuration {ENCRYPT}",
    ),
    Case(WRITES, "held", as_is, OK, "tried: create-only, compare-and-swap and conditional delete hold"),
    Case(
        WRITES,
        "ignored by copies",
        careless("CopyObject"),
        ERROR,
        "a second create-only copy, a copy over a wrong ETag; two launches could both win",
        OTHER_S3,
    ),
    Case(
        WRITES, "ignored by puts", careless("PutObject"), ERROR, "refused: a put over a wrong ETag;", OTHER_S3
    ),
    Case(
        WRITES,
        "ignored by deletes",
        careless("DeleteObject"),
        ERROR,
        "refused: a delete of a wrong ETag;",
        OTHER_S3,
    ),
    Case("subnets", "with a way out", as_is, OK, "subnet-b (us-east-1b), subnet-a (us-east-1a)"),
    Case(
        "subnets",
        "of which one has no route out",
        tables(
            route_table("rtb-main", main=True, out=False),
            route_table("rtb-2", "subnet-b"),
            route_table("rtb-1", "subnet-a", out=False),
        ),
        ERROR,
        "subnet-a has no route to an internet gateway",
        ROUTE,
    ),
    Case("subnets", "on the main table", tables(route_table("rtb-main", main=True)), OK, "subnet-b"),
    Case(
        "subnets",
        "gone",
        answer("ec2", "describe_subnets", refusal("InvalidSubnetID.NotFound")),
        ERROR,
        "a subnet of the stack does not exist",
        ANEW,
    ),
    Case(
        "subnets",
        "without a route out",
        tables(route_table("rtb-1", "subnet-a", "subnet-b", out=False)),
        ERROR,
        "subnet-b has no route to an internet gateway",
        ROUTE,
    ),
    Case(
        "subnets",
        "with a route to a gateway that is gone",
        black_hole,
        ERROR,
        "no route to an internet",
        ROUTE,
    ),
    Case("subnets", "without gateway", cut_off, ERROR, "no route to an internet gateway", ANEW),
    Case("subnets", "on no table at all", tables(), ERROR, "no route to an internet gateway", ANEW),
    Case("subnets", "with one address left", lambda world: full_subnet(world, left=1), OK, "subnet-b"),
    Case(
        "subnets",
        "full",
        full_subnet,
        ERROR,
        "subnet-b has no free address",
        "aws ec2 describe-network-interfaces (to see what uses them)",
    ),
    Case("S3 endpoint", "on every table", as_is, OK, "vpce-1, on the route table of every subnet"),
    Case(
        "S3 endpoint",
        "missing",
        answer("ec2", "describe_vpc_endpoints", {"VpcEndpoints": []}),
        WARNING,
        "no gateway endpoint for S3",
        "aws ec2 create-vpc-endpoint --vpc-id vpc-1 --service-name com.amazonaws.us-east-1.s3 "
        "--route-table-ids rtb-1",
    ),
    Case(
        "S3 endpoint",
        "of another kind",
        changed("ec2", "describe_vpc_endpoints", "VpcEndpoints", VpcEndpointType="Interface"),
        WARNING,
        "no gateway endpoint",
        "aws ec2 create-vpc-endpoint --vpc-id vpc-1 --service-name com.amazonaws.us-east-1.s3 "
        "--route-table-ids rtb-1",
    ),
    Case(
        "S3 endpoint",
        "not on a subnet's table",
        tables(route_table("rtb-1", "subnet-a"), route_table("rtb-2", "subnet-b")),
        WARNING,
        "rtb-2 has no route to vpce-1",
        "aws ec2 modify-vpc-endpoint --vpc-endpoint-id vpce-1 --add-route-table-ids rtb-2",
    ),
    Case(
        "S3 endpoint",
        "failed",
        changed("ec2", "describe_vpc_endpoints", "VpcEndpoints", State="failed"),
        ERROR,
        "vpce-1 is failed",
        ANEW,
    ),
    Case("security group", "as deployed", as_is, OK, "sg-1: HTTPS out, nothing in"),
    Case(
        "security group",
        "with everything out",
        egress({"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}),
        OK,
        "HTTPS out",
    ),
    Case("security group", "with nothing out", egress(), ERROR, "sg-1 lets no HTTPS out", ALLOW_HTTPS),
    Case(
        "security group",
        "with HTTP alone out",
        egress({**HTTPS, "FromPort": 80, "ToPort": 80}),
        ERROR,
        "sg-1 lets no HTTPS out",
        ALLOW_HTTPS,
    ),
    Case(
        "security group",
        "with HTTPS to the office alone",
        egress({**HTTPS, "IpRanges": [{"CidrIp": "10.0.0.0/8"}]}),
        ERROR,
        "sg-1 lets no HTTPS out",
        ALLOW_HTTPS,
    ),
    Case(
        "security group",
        "with SSH in",
        changed("ec2", "describe_security_groups", "SecurityGroups", IpPermissions=[{"FromPort": 22}]),
        WARNING,
        "sg-1 lets 1 kinds of traffic in",
        "aws ec2 describe-security-groups --group-ids sg-1 (then revoke-security-group-ingress)",
    ),
    Case(
        "security group",
        "gone",
        answer("ec2", "describe_security_groups", refusal("InvalidGroup.NotFound")),
        ERROR,
        "security group sg-1 does not exist",
        ANEW,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_look_at_the_stack(case: Case) -> None:
    verify(case)


@pytest.mark.parametrize(
    "statement",
    [
        allow("s3:*", "*"),
        allow("s3:Put*", "arn:aws:s3:::the-*"),
        allow("s3:PutObject", f"arn:aws-us-gov:s3:::{BUCKET}/dev/*"),
    ],
    ids=lambda statement: str(statement["Resource"]),
)
def test_a_policy_that_allows_more_allows_this(statement: dict[str, Any]) -> None:
    world = World()
    policy(statement)(world)
    assert world.examine("instance profile")[0].level is OK


def test_a_policy_that_comes_as_quoted_text_is_read() -> None:
    world = World()
    document = {"Statement": allow("s3:PutObject", f"arn:aws:s3:::{BUCKET}/dev/*")}
    world.plan["iam", "get_role_policy"] = {"PolicyDocument": quote(json.dumps(document))}
    assert world.examine("instance profile")[0].level is OK


@pytest.mark.parametrize("careless", ["", "CopyObject", "PutObject", "DeleteObject"])
def test_trying_the_writes_leaves_nothing(careless: str) -> None:
    world = World()
    world.s3.careless.add(careless)
    before = set(world.s3.objects)
    world.examine("conditional writes")
    assert set(world.s3.objects) == before


def test_trying_the_writes_cleans_up_when_it_is_refused_half_way() -> None:
    world = World()
    before = set(world.s3.objects)
    world.aws.deny("s3", "copy_object")
    assert "may not s3:PutObject" in world.examine("conditional writes")[0].text
    assert set(world.s3.objects) == before
    touched = {call[2]["Key"] for call in world.aws.calls if call[0] == "s3"}
    assert all(key.startswith("logs/doctor/") for key in touched)
