"""How a cluster is paid: which billing goes with which kind, since the accounts know no other."""

OWN, PROVIDER, METERED = "own", "provider", "metered"


def billing_fault(*, kind: str, billing: str) -> str:
    """What is wrong with the two together and what to do; empty: nothing.

    What providers cost is on their tokens; an own cluster's hours are, and nobody would bill its tokens.
    """
    if kind == PROVIDER and billing != METERED:
        return f"a provider is paid by the token: its billing is metered, not {billing}"
    if kind == OWN and billing == METERED:
        return (
            "an own cluster is paid by the hour: its billing is committed or autoscaled, not metered (what "
            "is paid by the token is a provider)"
        )
    return ""
