"""What MPI says on standard error beside what the ranks say, and what of it is left out."""

import re

# What Open MPI adds when a rank ends with an error that it has explained itself, or when it did
# not know yet what SIGUSR1 asks for. Open MPI 5 has no option against it. Any other banner (a rank
# killed by a signal, too few slots) tells something new and passes.
_RULE = rb"-{74}\n"
_HEADS = (
    rb"(?:prterun|mpirun) (?:detected that one|has exited due)",
    rb"(?:prterun|mpirun) noticed that process rank[^-]*?\ssignal 10 ",
    rb"MPI_ABORT was",
    rb"Primary job ",
)
# Besides: remains of banners, what libevent says of a pipe whose rank is gone, the daemon of a
# rank that is gone while it still has an answer for it, and a collective of a lost rank.
_LINES = (
    rb"\[warn\] Epoll ",
    rb"\[[\w.-]+:\d+\] PMIX ERROR: PMIX_ERR_(?:UNREACH|LOST_CONNECTION|COMM_FAILURE)",
    rb"NBC_Progress: an error 7[57] was found during schedule ",
)
_BANNER = re.compile(
    b"%b(?:%b).*?\n%b|\x00|^(?:%b)[^\n]*\n" % (_RULE, b"|".join(_HEADS), _RULE, b"|".join(_LINES)),
    re.DOTALL | re.MULTILINE,
)
# The end of the text as long as it may still become a banner.
_OPEN = re.compile(
    rb"-+\Z|%b(?:[pmMP](?:(?!%b).){0,1500})?\Z"
    rb"|^N(?:B(?:C[^\n]*)?)?\Z"
    rb"|^\[(?:warn\][^\n]*|[\w.-]*(?::\d*)?|[\w.-]+:\d+\](?: PMIX[^\n]*| ?P?M?I?))\Z"
    % (_RULE, _RULE),
    re.DOTALL | re.MULTILINE,
)


class BannerFilter:
    """Drops from a byte stream the banners by which mpirun repeats a failure."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        """Return what can be shown now; what may become a banner is held back."""
        text = _BANNER.sub(b"", self._held + chunk)
        opened = _OPEN.search(text)
        cut = opened.start() if opened else len(text)
        self._held = text[cut:]
        return text[:cut]

    def close(self) -> bytes:
        """Return the rest."""
        return self._held
