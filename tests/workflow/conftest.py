import pytest

from tests.workflow.study_folder import StudyFolder


@pytest.fixture
def study(tmp_path) -> StudyFolder:
    """A tiny study of the demo cohort, not yet run."""
    folder = StudyFolder(tmp_path)
    folder.configure()
    return folder
