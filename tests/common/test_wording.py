from cl_lightning.common.wording import counted


def test_only_one_is_singular() -> None:
    assert [counted(n, "prompt") for n in (0, 1, 2)] == ["0 prompts", "1 prompt", "2 prompts"]
    assert [counted(n, "branch", "branches") for n in (1, 3)] == ["1 branch", "3 branches"]
