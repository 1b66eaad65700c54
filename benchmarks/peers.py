"""The passes that merge or fold a model, by name: what a user could run instead of fxrep, and fxrep itself."""

from collections.abc import Callable

from torch import nn

AS_IS = "as is"
FXREP = "fxrep"
PEERS = (AS_IS, FXREP, "timm", "fuse")


def merges() -> dict[str, Callable[[nn.Module], nn.Module]]:
    """Each takes an eval-mode model, leaves it as it is and returns another."""
    from timm.utils.model import reparameterize_model
    from torch.fx.experimental.optimization import fuse

    import fxrep

    return {FXREP: fxrep.reparameterize, "timm": reparameterize_model, "fuse": fuse}


def reason(error: BaseException) -> str:
    """The first line of an error, for a table and for the terminal."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def variants(model: nn.Module) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """The model and what each pass makes of it, and the passes that cannot take it, with the reason."""
    made = {AS_IS: model} | {name: _apply(merge, model) for name, merge in merges().items()}
    failed = {name: why for name, why in made.items() if isinstance(why, str)}
    return {name: each for name, each in made.items() if isinstance(each, nn.Module)}, failed


def _apply(merge: Callable[[nn.Module], nn.Module], model: nn.Module) -> nn.Module | str:
    try:
        return merge(model)
    except Exception as error:
        return reason(error)
