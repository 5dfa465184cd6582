"""The audit of the dependencies: it finds nothing here, and it finds what is wrong elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.audit import audit, locked, problems_of_environment, problems_of_lock

_HASH = "    --hash=sha256:" + "a" * 64
GOOD = f"requests==2.34.2 ; python_version >= '3.11' \\\n{_HASH} \\\n{_HASH}\n    # via dbt\n"


def test_the_lock_is_whole_and_the_environment_is_the_lock(repository: Path) -> None:
    assert audit(repository) == []


def test_a_good_lock_has_no_problem() -> None:
    assert list(problems_of_lock(GOOD)) == []
    assert locked(GOOD) == {"requests": {"2.34.2"}}


@pytest.mark.parametrize(
    "text",
    [
        "requests==2.34.2\n",
        f"requests>=2.34 \\\n{_HASH}\n",
        f"requests \\\n{_HASH}\n",
        f"requests @ https://example.com/requests.whl \\\n{_HASH}\n",
        f"https://example.com/requests.whl \\\n{_HASH}\n",
        f"--extra-index-url https://example.com/simple\n{GOOD}",
        f"-e git+https://example.com/requests\n{GOOD}",
        "requests==2.34.2 \\\n    --hash=md5:aaaa\n",
        f"{GOOD}urllib3==2.0\n",
    ],
)
def test_a_line_without_a_version_or_a_hash_or_with_an_address_is_found(text: str) -> None:
    assert list(problems_of_lock(text))


def test_what_is_installed_beside_the_lock_is_found() -> None:
    found = list(problems_of_environment({"requests": {"0.0.1"}}))
    assert any("requests is installed as" in one for one in found)
    assert any("is installed and not locked" in one for one in found)
