"""Acceptance rules as a user brings them along."""


def typical(logprob_PV, token_PK, tau_P1):
    """At least tau times as likely as the average token."""
    entropy_P1 = -(logprob_PV.exp() * logprob_PV.clamp(min=-1e4)).sum(-1, keepdim=True)
    return logprob_PV.gather(-1, token_PK) >= tau_P1.log() - entropy_P1


def no_tensor(logprob_PV, token_PK, tau_P1):
    return True


def wrong_shape(logprob_PV, token_PK, tau_P1):
    return (logprob_PV > 0)[:, 0]


def wrong_type(logprob_PV, token_PK, tau_P1):
    return logprob_PV.gather(-1, token_PK)


def broken(logprob_PV, token_PK, tau_P1):
    return logprob_PV["x"]
