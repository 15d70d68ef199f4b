"""A model that is made through the API may have a draft, by the name of a model and by no path of this machine."""

import pytest

from node.api.create_request import CreateBody, read_wanted
from node.api.errors import BodyInvalid


def test_a_draft_goes_into_the_recipe() -> None:
    body = CreateBody.model_validate({"model": "quick", "from": "demo", "draft": "small"})
    assert read_wanted(body).recipe.draft == "small"
    assert read_wanted(CreateBody.model_validate({"model": "quick", "from": "demo"})).recipe.draft is None


@pytest.mark.parametrize("path", ["/etc", "./small", "../small", "~/small"])
def test_a_path_is_no_draft(path: str) -> None:
    with pytest.raises(BodyInvalid, match="draft"):
        read_wanted(CreateBody.model_validate({"model": "quick", "from": "demo", "draft": path}))
