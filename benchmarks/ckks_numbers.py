"""What docs/protocols/ckks-security.md measures, in numpy and apart from ``protocols.ckks``.

    python benchmarks/ckks_numbers.py

prints how far floating products lie from integers, largest values in spectra, norms of errors
over their bounds, and a threshold sum of integers. Everything is written down once more from the
page's formulas, so that a slip in the library does not repeat here. It ends with an
``AssertionError`` where a product differs from one of Python's integers or a sum is wrong.
"""

import math
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

N: Final = 4096
HALF: Final = N // 2
TWIST: Final = np.exp(1j * np.pi * np.arange(HALF) / N)
SPECTRUM: Final = 2**8.5  # no secret has a larger value of its transform
LIMBS: Final = {"two limbs of 32 bits": (32, 2), "three limbs of 24 bits": (24, 3)}
FLOODING, CLIENTS, HOLDERS, OPENED = 40, 100, 5, 245  # 10^6 entries, 4088 a polynomial

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
generator = np.random.default_rng()  # a measurement: what is kept secret needs another one


def forward(x: NDArray[np.number]) -> NDArray[np.complex128]:
    """The folded transform: values at every second root of X^N + 1."""
    return np.fft.fft((x[..., :HALF] + 1j * x[..., HALF:]) * TWIST)


def backward(spectrum: NDArray[np.complex128]) -> Floats:
    z = np.fft.ifft(spectrum) * np.conj(TWIST)
    return np.concatenate([z.real, z.imag], axis=-1)


def ternary(*shape: int) -> Integers:
    return generator.integers(-1, 2, (*shape, N))


def binomial(*shape: int) -> Integers:
    return generator.binomial(42, 0.5, (*shape, N)) - 21


def exact(u: Integers, limb: Integers) -> list[int]:
    """The product in Z[X]/(X^N + 1), by one product of Python's integers."""
    width = 64  # bits a coefficient: no product of a limb reaches 2**44
    joined = [sum(int(x) << (width * i) for i, x in enumerate(each)) for each in (u, limb)]
    product, out = joined[0] * joined[1], []
    for _ in range(2 * N):
        low = (product & (2**width - 1)) - ((product >> (width - 1) & 1) << width)
        out.append(low)
        product = (product - low) >> width
    return [out[i] - out[i + N] for i in range(N)]


def cases(bits: int) -> Iterator[tuple[str, Integers, Integers]]:
    """Secrets, limbs: what is drawn, and the worst that a server may send."""
    top = 2 ** (bits - 1)
    for _ in range(40):
        yield "random", ternary(64), generator.integers(-top, top, N)
    for _ in range(40):
        u = ternary(64)
        # Limbs that are as large as can be, and along one secret's largest value.
        at = np.argmax(abs(forward(u[0])))
        wave = np.cos(np.pi * (1 - 4 * at) / N * np.arange(N) + generator.uniform(0, 2 * np.pi))
        yield "aligned", u, np.where(wave < 0, -top, top - 1)
    for pattern in (np.ones(N), np.resize([1, -1], N), np.where(np.arange(N) < HALF, 1, -1)):
        yield "patterns", ternary(64), (pattern * (top - 1)).astype(np.int64)
    for share in np.linspace(0.05, 0.13, 9):
        # Secrets that lean towards one wave until the check of the spectrum ends it.
        wave = np.cos(np.pi * 1001 / N * np.arange(N))
        u = np.where(generator.random((64, N)) < share, np.sign(wave).astype(np.int64), ternary(64))
        u = u[abs(forward(u)).max(axis=1) <= SPECTRUM]
        yield "leaning", u, np.where(wave < 0, -top, top - 1)


def products() -> None:
    for name, (bits, _) in LIMBS.items():
        worst: dict[str, float] = {}
        count: dict[str, int] = {}
        for kind, secrets, limb in cases(bits):
            if not len(secrets):
                continue
            found = backward(forward(secrets) * forward(limb))
            distance = abs(found - np.rint(found)).max()
            worst[kind] = max(worst.get(kind, 0.0), float(distance))
            first = kind not in count
            count[kind] = count.get(kind, 0) + len(secrets)
            if first:
                assert np.rint(found[0]).astype(np.int64).tolist() == exact(secrets[0], limb)
        for kind, distance in worst.items():
            print(
                f"{name}, {kind:8}: {distance:.1e} from an integer at most, {count[kind]} products"
            )


def spectra() -> None:
    largest = max(float(abs(forward(ternary(500))).max()) for _ in range(200))
    print(f"largest value of 100000 secrets' transforms: 2^{math.log2(largest):.2f}")


def bound(variance: float) -> float:
    """T of the page."""
    tail = 40 * math.log(2)
    excess = 2 * math.sqrt(tail / HALF) + (math.log(HALF) + tail) * tail / HALF
    return math.sqrt(N * variance * (1 + excess))


def product(u: Integers, x: Integers) -> Integers:
    """A product of small polynomials; the transform is exact far beyond them."""
    return np.rint(backward(forward(u) * forward(x))).astype(np.int64)


def norms() -> None:
    upload = 21 / 2 * (1 + 2 * 2 / 3 * HOLDERS * N)
    for name, variance in (("threshold", CLIENTS * upload), ("shared", CLIENTS * 21 / 2)):
        squares = []
        for _ in range(50):
            error = binomial(CLIENTS).sum(0)
            if name == "threshold":
                secret, key = ternary(HOLDERS).sum(0), binomial(HOLDERS).sum(0)
                error = error + product(ternary(CLIENTS), key).sum(0)
                error = error + product(binomial(CLIENTS), secret).sum(0)
            squares.append(float((error.astype(np.float64) ** 2).sum()))
        print(
            f"{name}: variance over predicted {np.mean(squares) / N / variance:.3f}, "
            f"largest norm over T {math.sqrt(max(squares)) / bound(variance):.3f} of 50"
        )


def words(x: NDArray[np.number]) -> NDArray[np.uint64]:
    return np.asarray(x).astype(np.int64).view(np.uint64)


def multiply(u: Integers, a: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The product modulo 2^64, of two signed limbs."""
    low = a.astype(np.uint32).view(np.int32).astype(np.int64)
    high = ((a - words(low)) >> np.uint64(32)).astype(np.uint32).view(np.int32)
    return words(product(u, low)) + (words(product(u, high.astype(np.int64))) << np.uint64(32))


def cut(x: NDArray[np.uint64], dropped: int) -> NDArray[np.uint64]:
    return (x + np.uint64(1 << (dropped - 1))) >> np.uint64(dropped) << np.uint64(dropped)


def integers() -> None:
    """Sum integers modulo t under a threshold key, with all that is cut."""
    dropped, bits, polynomials = 40, 13, 8
    upload = 21 / 2 * (1 + 2 * 2 / 3 * HOLDERS * N)
    sigma = math.sqrt(12 * OPENED) * 2 ** (FLOODING / 2) * bound(CLIENTS * upload)
    deviation = math.sqrt(CLIENTS * upload + HOLDERS * sigma**2)
    rounding = (CLIENTS + HOLDERS) * 2 ** (dropped - 1)
    uniform = deviation**2 + (CLIENTS + HOLDERS) * 4**dropped / 12
    print(
        f"sigma 2^{math.log2(sigma):.2f}, 12.5 deviations and the rounding bound "
        f"2^{math.log2(12.5 * deviation + rounding):.2f}, half a unit 2^{63 - bits}"
    )
    a = generator.integers(0, 2**64, N, dtype=np.uint64)
    secrets = ternary(HOLDERS, polynomials)
    keys = [
        sum((words(binomial()) - multiply(each, a) for each in secrets[:, j]), words(np.zeros(N)))
        for j in range(polynomials)
    ]
    second = words(np.zeros(N))
    first = np.zeros((polynomials, N), np.uint64)
    truth = np.zeros((polynomials, N), np.int64)
    for _ in range(CLIENTS):
        u, sent = ternary(), generator.integers(0, 2**bits, (polynomials, N))
        sent[:, :8] = 0
        truth += sent
        second = second + multiply(u, a) + words(binomial())
        for j, key in enumerate(keys):
            c0 = multiply(u, key) + words(binomial()) + (words(sent[j]) << np.uint64(64 - bits))
            first[j] += cut(c0, dropped)
    for j in range(polynomials):
        for each in secrets[:, j]:
            noise = words(np.rint(generator.normal(0, sigma, N)))
            first[j] += cut(multiply(each, second) + noise, dropped)
    error = (first - (words(truth) << np.uint64(64 - bits))).view(np.int64).astype(np.float64)
    assert abs(error).max() < 2 ** (63 - bits)
    print(
        f"deviation over predicted {error.std() / math.sqrt(uniform):.3f}, largest of {error.size} "
        f"{abs(error).max() / 2 ** (64 - bits):.3f} of a unit, in the zeros "
        f"{abs(error[:, :8]).max() / math.sqrt(uniform):.1f} deviations"
    )
    # The same result beside the uploads of all but one more client, that is of another set.
    u = ternary()
    wrong = first + np.stack([multiply(u, key) for key in keys])
    zeros = abs(wrong.view(np.int64)[:, :8].astype(np.float64)).max(axis=1)
    print(
        f"a set with another's c0: largest zero 2^{math.log2(zeros.min()):.1f} and more, "
        f"allowed 2^{math.log2(12.5 * deviation + rounding):.1f}"
    )


def main() -> None:
    print(f"numpy {np.__version__}")
    products()
    spectra()
    norms()
    integers()


if __name__ == "__main__":
    main()
