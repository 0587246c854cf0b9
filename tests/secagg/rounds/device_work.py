"""What tests/secagg/rounds/test_device.py runs in processes of their own."""

import itertools
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import triton
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from protocols.errors import LocalProtocolError
from protocols.primitives.prg import MAX_WORDS, SEED_SIZE, Mask, Masks, Suite
from protocols.secrets import Secret
from secagg.errors import InputError
from secagg.rounds import chacha
from secagg.rounds.device import DeviceMasks, on_device


def say(text: str) -> None:
    sys.stdout.write(text + "\n")


def words() -> None:
    rng = np.random.default_rng(0)

    # RFC 8439, 2.3.2: the block of counter 1
    key, nonce = bytes(range(32)), bytes.fromhex("000000090000004a00000000")
    material = torch.from_numpy(np.frombuffer(key + nonce, "<i4").copy())
    block = torch.zeros(8, dtype=torch.int64)
    numbers = {"skipped": 0, "subtracted": 0, "seeds": 1}
    chacha.launch(block, material, count=8, first_block=1, **numbers)
    assert block.numpy().tobytes().hex().startswith("10f1e7e4d13b5915500fdd1fa32071c4")
    say("rfc")

    for length, seeds in ((1, 1), (7, 2), (8, 3), (1023, 3), (2049, 2)):
        masks = [
            Mask(
                seed=Secret(rng.bytes(SEED_SIZE)),
                label=rng.bytes(5),
                subtract=bool(rng.integers(2)),
            )
            for _ in range(seeds)
        ]
        found = rng.integers(0, 2**64, length, dtype=np.uint64)
        expected = found.copy()
        on_device()(masks, Suite.CHACHA20).apply_to(found)
        Masks(masks, Suite.CHACHA20).apply_to(expected)
        assert np.array_equal(found, expected)
    say("random")

    masks = [Mask(seed=Secret(bytes(SEED_SIZE)), label=b"", subtract=one) for one in (False, True)]
    masks.append(Mask(seed=Secret(b"1" * SEED_SIZE), label=b"1"))
    streams, plain = DeviceMasks(masks, "cuda"), Masks(masks, Suite.CHACHA20)
    for length in (3, 0, 8, 5, 1, 64, 13):  # from any word on
        found, expected = np.ones(length, np.uint64), np.ones(length, np.uint64)
        streams.apply_to(found)
        plain.apply_to(expected)
        assert np.array_equal(found, expected)
    say("calls")

    last = 2**32 - 2  # of the 2^32 blocks before the counter is 0 again
    block = torch.zeros(16, dtype=torch.int64)
    chacha.launch(block, material, count=16, first_block=last, **numbers)
    cipher = Cipher(algorithms.ChaCha20(key, last.to_bytes(4, "little") + nonce), None)
    assert block.numpy().tobytes() == cipher.encryptor().update(bytes(128))
    say("last")

    streams._at = MAX_WORDS - 8
    streams.apply_to(np.zeros(8, np.uint64))
    for refused, error in (
        (torch.zeros(1, dtype=torch.int64), LocalProtocolError),
        (torch.zeros(1), InputError),
        (torch.zeros(2, 2, dtype=torch.int64), InputError),
        (torch.zeros(4, dtype=torch.int64)[::2], InputError),
    ):
        try:
            streams.apply_to_tensor(refused)
        except error:
            continue
        raise SystemExit(f"{refused} was not refused")
    say("past")


LAUNCHES = (  # numbers for which triton by itself compiles a form of its own
    {"count": 1000, "skipped": 3, "first_block": 5, "subtracted": 2, "seeds": 7},
    {"count": 1, "skipped": 1, "first_block": 1, "subtracted": 1, "seeds": 1},
    {"count": 4096, "skipped": 0, "first_block": 16, "subtracted": 0, "seeds": 32},
    {"count": 2**33, "skipped": 0, "first_block": 2**32 - 1, "subtracted": 0, "seeds": 1},
)


def compiled(architecture: int) -> None:
    """The form that every launch takes, as triton compiles it where there is a device."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, make_backend
    from triton.runtime.jit import create_function_from_signature

    target = GPUTarget("cuda", architecture, 32)
    backend = make_backend(target)
    bind = create_function_from_signature(chacha.masks.signature, chacha.masks.params, backend)
    forms = []
    for numbers, offset in itertools.product(LAUNCHES, (0, 1)):  # of words that are aligned, or not
        words = torch.zeros(33, dtype=torch.int64)[offset:].view(torch.uint64)
        material = torch.zeros(33, dtype=torch.int32)[offset:].view(torch.uint32)
        how = {"BLOCKS": chacha.BLOCKS, "num_warps": chacha.WARPS, "debug": False}
        bound, special, rest = bind(words, material, **numbers, **how)
        forms.append(chacha.masks._pack_args(backend, rest, bound, special, rest))
    options, signature, constants, attributes = forms[0]
    assert all(form[1:] == forms[0][1:] for form in forms), forms
    source = ASTSource(chacha.masks, signature, constants, attributes)
    kernel = triton.compile(source, target=target, options=options.__dict__)
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as binary:
        Path(binary.name).write_bytes(kernel.asm["cubin"])
        for what in ("-res-usage", "-sass"):
            told = subprocess.run(
                [tool, what, binary.name], capture_output=True, text=True, check=True
            )
            say(told.stdout)


if __name__ == "__main__":
    words() if sys.argv[1] == "words" else compiled(int(sys.argv[2]))
