import pytest

from buildvm_nb.study.laboratory import quote_line

LOG = """\
test_a ... ok
  ssl.SSLError:   certificate has expired
FAILED (errors=1)
"""


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("certificate has expired", "ssl.SSLError:   certificate has expired"),
        ("SSLError:  certificate", "ssl.SSLError:   certificate has expired"),
        ("has expired FAILED", "has expired FAILED"),
        ("test_b", ""),
        ("", ""),
    ],
)
def test_the_line_that_says_it_is_quoted(text, quoted):
    assert quote_line(text, ["nothing here", LOG]) == quoted
