from __future__ import annotations

from pathlib import Path

import pytest

from dail.synth.core.machine import remote_file_system

TABLE = r"""22 1 0:1 / / rw - ext4 /dev/vda rw
23 22 0:2 / /data rw,relatime shared:1 - nfs4 host:/x rw
24 23 0:3 / /data/fast\040disk rw - xfs /dev/vdb rw
25 22 0:4 / /datalake rw - fuse.s3fs s3fs rw
26 22 0:5 / /over rw - ext4 /dev/vdc rw
27 26 0:6 / /over rw - cifs //host/x rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/runs/dail.sqlite", None),
        ("/data/runs/dail.sqlite", "nfs4"),
        ("/data", "nfs4"),
        ("/data/fast disk/dail.sqlite", None),
        ("/datalake/dail.sqlite", "fuse.s3fs"),
        ("/database/dail.sqlite", None),
        ("/over/dail.sqlite", "cifs"),
    ],
)
def test_a_path_is_of_the_file_system_that_is_mounted_nearest_above(tmp_path, path, kind):
    table = tmp_path / "mountinfo"
    table.write_text(TABLE)
    assert remote_file_system(Path(path), table) == kind


def test_without_a_table_no_file_system_is_another_machines(tmp_path):
    assert remote_file_system(tmp_path, tmp_path / "none") is None
