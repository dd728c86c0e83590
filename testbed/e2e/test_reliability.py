"""The evidence of docs/reliability.md in a small, bounded form: torture, power cuts, and that both can fail."""
import json, subprocess

import pytest

from conftest import BIN, run


def report(*args, timeout=500, program="testbed"):
    """Exit status and JSON of a command that exits with 1 on a violation."""
    done = subprocess.run([str(BIN / program), *map(str, args), "--json"], capture_output=True, text=True, timeout=timeout)
    assert done.returncode in (0, 1) and done.stdout[:1] in "{[", f"{args}\n{done.stdout}\n{done.stderr[-4000:]}"
    found = json.loads(done.stdout)
    return done.returncode, found[0] if isinstance(found, list) else found


def needs_sabotage():
    if not (BIN / "holdfastd-sabotage").exists() or not (BIN / "testbed-sabotage").exists():
        pytest.skip("no binaries with bugs to plant: .ci/run builds them")


def test_a_minute_of_torture():
    """Goal: nothing is lost, stale or wrong under faults. Method: 45 seconds of clients and faults, seed 11."""
    code, found = report("torture", "--minutes", 0.75, "--seed", 11)
    assert (code, found["violations"]) == (0, []), json.dumps(found)
    assert found["checked"] > 300 and len(found["faults"]) >= 2, json.dumps(found)
    assert found["scrub"]["shards"] > 100, json.dumps(found)


@pytest.mark.parametrize("bug", ["read-below-quorum", "heal-stale-shard"])
def test_torture_catches_planted_bugs(bug):
    """Goal: torture can fail. Method: two of the planted bugs; docs/reliability.md has all."""
    needs_sabotage()
    code, found = report("torture", "--minutes", 1, "--seed", 3, "--sabotage", bug, "--faults", "kill,stop,isolate")
    assert code == 1 and found["violations"], json.dumps(found)


def test_power_cuts_of_a_drive():
    """Goal: what a drive acknowledged survives the power. Method: 6 cuts; and the controls, each caught."""
    code, found = report("powercut", "--runs", 6)
    if found["skipped"]:
        pytest.skip(found["skipped"])
    assert (code, found["violations"], found["runs"]) == (0, [], 6), json.dumps(found)
    assert found["checked"] > 10, json.dumps(found)
    for bug in ("skip-log-sync", "skip-volume-sync"):
        code, found = report("powercut", "--runs", 40, "--sabotage", bug)
        assert code == 1 and found["violations"], (bug, json.dumps(found))


def test_a_power_cut_catches_blocks_used_too_early():
    needs_sabotage()
    code, found = report("powercut", "--runs", 60, "--sabotage", "extent-reused-early")
    if found["skipped"]:
        pytest.skip(found["skipped"])
    assert code == 1 and found["violations"], json.dumps(found)


def test_power_cuts_of_a_cluster():
    """Goal: a cluster that loses all its power loses nothing acknowledged. Method: two cuts under load."""
    code, found = report("powercut", "--cluster", "--runs", 2)
    if found["skipped"]:
        pytest.skip(found["skipped"])
    assert (code, found["violations"], found["runs"]) == (0, [], 2), json.dumps(found)


def section(folder, *args):
    """A section of the record, bounded; its report, and the document."""
    document = folder / "reliability.md"
    code, found = report("reliability", "--evidence", folder / "evidence", "--document", document, "--commit", "ci", *args)
    assert (code, found["violations"]) == (0, []), json.dumps(found)
    assert "at commit ci" in document.read_text()
    return found


def test_rotten_blocks_are_found_and_healed_and_never_served(folder):
    """Goal: item 4 of docs/reliability.md in small. Method: 160 blocks, two drives of each node in turn."""
    found = section(folder, "--only", "rot", "--blocks", 160, "--rounds", 2)
    assert found["blocks"] == 160 and found["found"] >= found["shards"] * 0.9 > 20, json.dumps(found)
    assert found["reads"] > 100 and found["failed"] == 0 and found["last_pass"]["drives"] == 16, json.dumps(found)


def test_a_wiped_drive_under_load_is_rebuilt_with_proof(folder):
    """Goal: item 1 in small. Method: one wipe beside a light load."""
    found = section(folder, "--only", "rebuild", "--megabytes", 60, "--wipes", 1, "--rate", 15, "--seconds", 4)
    assert [one["versions"] >= found["objects"] for one in found["rebuilds"]] == [True], json.dumps(found)
    assert found["during"]["requests"] > 0 and found["scrub"]["found"] == 0, json.dumps(found)


def test_faults_of_drives_and_links(cluster):
    """Goal: a drive that hangs and a link that is cut are noticed by nobody but the cluster; both end.
    Method: stock clients write and read through the nodes concerned meanwhile."""
    s3 = cluster.s3(1)
    s3.create_bucket(Bucket="faults")
    for fault, mend in ((("hang-drive", 1, 2), ("resume-drive", 1, 2)), (("cut-link", 1, 4), ("mend-link", 1, 4))):
        cluster.fault(*fault)
        for n in range(4):
            key = f"{fault[0]}/{n}"
            s3.put_object(Bucket="faults", Key=key, Body=key.encode() * 5000)
            assert s3.get_object(Bucket="faults", Key=key)["Body"].read() == key.encode() * 5000
        cluster.fault(*mend)
    listed = [o["Key"] for o in cluster.s3(4).list_objects_v2(Bucket="faults")["Contents"]]
    assert len(listed) == 8
    assert run(BIN / "testbed", "fault", "--dir", cluster.dir, "cut-link", 1, 1, check=False).returncode == 1
