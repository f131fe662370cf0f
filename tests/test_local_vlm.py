from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pageglass import prompts
from pageglass.errors import ModelError, ModelTimeout, PromptTooLong
from pageglass.settings import ModelSettings
from retrieval.torch_runtime import library
from retrieval.vlms import Message, PromptImage, Vlm, YesAnswers
from retrieval.vlms.local import LocalVlm
from tests.tiny_vlm import CPU, FAMILIES, checkpoint, edit_json, qwen2_5_vl, shown

EVERY = sorted(FAMILIES)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:  # pyright: ignore[reportUnusedFunction]
    torch = library("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in FAMILIES.items()}


@pytest.fixture(scope="module")
def vlms(folders: dict[str, Path]) -> dict[str, LocalVlm]:
    return {name: LocalVlm(checkpoint(folder), CPU) for name, folder in folders.items()}


def ask(text: str = "What stands here?", image: PromptImage | None = None) -> list[Message]:
    return [
        Message("system", ("You read pages.",)),
        Message("user", ("Page 1:", image or shown("a page"), text)),
    ]


def does_it(image: PromptImage, question: str = "Is it dark?") -> list[Message]:
    return [Message("user", (image, prompts.answers_question(question)))]


@pytest.mark.parametrize("family", EVERY)
def test_building_one_loads_nothing(folders: dict[str, Path], family: str, tmp_path: Path) -> None:
    folder = tmp_path / family
    folder.mkdir()
    for name in ("config.json", "processor_config.json"):
        (folder / name).write_bytes((folders[family] / name).read_bytes())
    vlm: Vlm = LocalVlm(checkpoint(folder), CPU)
    assert vlm.name == str(folder)
    assert vlm.image_pixels > 0
    with pytest.raises(ModelError, match="does not load"):
        vlm.reply(ask(), tokens=3, seconds=30)


@pytest.mark.parametrize("family", EVERY)
def test_it_writes_the_same_reply_each_time(vlms: dict[str, LocalVlm], family: str) -> None:
    vlm = vlms[family]
    reply = vlm.reply(ask(), tokens=12, seconds=30)
    assert reply.text and reply == vlm.reply(ask(), tokens=12, seconds=30)
    assert reply.cut and reply.output_tokens == 12
    assert reply.model.startswith(Path(vlm.name).name + "@")
    assert reply.input_tokens and reply.input_tokens > len("You read pages.What stands here?")


@pytest.mark.parametrize("family", EVERY)
def test_a_reply_begins_the_same_however_long_it_may_be(
    vlms: dict[str, LocalVlm], family: str
) -> None:
    pieces: list[str] = []
    vlms[family].reply(ask(), tokens=4, seconds=30, on_text=pieces.append)
    whole = vlms[family].reply(ask(), tokens=12, seconds=30).text
    assert whole.startswith("".join(pieces).rstrip("\ufffd"))


@pytest.mark.parametrize("family", EVERY)
def test_what_is_handed_out_is_the_reply(vlms: dict[str, LocalVlm], family: str) -> None:
    pieces: list[str] = []
    reply = vlms[family].reply(ask(), tokens=24, seconds=30, on_text=pieces.append)
    assert "".join(pieces) == reply.text
    assert len(pieces) > 3
    assert reply == vlms[family].reply(ask(), tokens=24, seconds=30)


@pytest.mark.parametrize("family", EVERY)
def test_the_picture_matters(vlms: dict[str, LocalVlm], family: str) -> None:
    dark, light = shown(grey=20), shown(grey=255)
    answers = vlms[family].yes([does_it(dark), does_it(light)], seconds=30)
    assert answers.probabilities[0] != pytest.approx(answers.probabilities[1], abs=1e-5)


@pytest.mark.parametrize("family", EVERY)
def test_images_are_read_where_they_stand(vlms: dict[str, LocalVlm], family: str) -> None:
    dark, light = shown(grey=20), shown(grey=255)
    asked = prompts.answers_question("Which is dark?")
    orders = [[Message("user", (*images, asked))] for images in ((dark, light), (light, dark))]
    one, other = vlms[family].yes(orders, seconds=30).probabilities
    assert one != pytest.approx(other, abs=1e-6)


@pytest.mark.parametrize("family", EVERY)
def test_a_prompt_s_probability_does_not_depend_on_the_others(
    vlms: dict[str, LocalVlm], family: str
) -> None:
    images = [
        shown("one", grey=20),
        shown("two", width=200, height=90),
        shown("three", grey=250),
        shown("four", grey=90),
        shown("five", width=200, height=90, grey=99),
        shown("six", grey=140),
        shown("seven", grey=10),
    ]
    asked = [does_it(image) for image in images]
    asked.append(does_it(images[0], "A longer question about the same page, is it?"))
    vlm = vlms[family]
    together = vlm.yes(asked, seconds=60)
    alone = [vlm.yes([prompt], seconds=60) for prompt in asked]
    assert together.probabilities == pytest.approx(
        [answer.probabilities[0] for answer in alone], abs=1e-6
    )
    backwards = vlm.yes(asked[::-1], seconds=60)
    assert backwards.probabilities[::-1] == pytest.approx(together.probabilities, abs=1e-6)
    assert together.input_tokens == sum(answer.input_tokens or 0 for answer in alone)
    assert together.output_tokens == len(asked)


@pytest.mark.parametrize("family", EVERY)
def test_yes_and_no_are_summed_over_the_ways_they_are_written(
    folders: dict[str, Path], vlms: dict[str, LocalVlm], family: str
) -> None:
    """Against the model's own forward pass, a softmax over the whole vocabulary, and every token
    that reads yes or no."""
    transformers, torch = library("transformers"), library("torch")
    model: Any = transformers.AutoModelForImageTextToText.from_pretrained(folders[family])
    processor: Any = transformers.AutoProcessor.from_pretrained(folders[family])
    prompt = does_it(shown("a page"))
    image, text = prompt[0].parts
    assert isinstance(image, PromptImage) and isinstance(text, str)
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
    rendered = processor.apply_chat_template(chat, add_generation_prompt=True)
    decoded = Image.open(io.BytesIO(image.data)).convert("RGB")
    inputs = processor(text=[rendered], images=[[decoded]], return_tensors="pt")
    with torch.inference_mode():
        shares = model(**inputs).logits[0, -1].softmax(dim=0)
    sums = {"yes": 0.0, "no": 0.0}
    for token in range(len(processor.tokenizer)):
        word = processor.tokenizer.decode([token]).strip().lower()
        if word in sums:
            sums[word] += float(shares[token])
    expected = sums["yes"] / (sums["yes"] + sums["no"])
    answers = vlms[family].yes([prompt], seconds=30)
    assert answers.probabilities == pytest.approx([expected], abs=1e-5)


MARKS = "<image> <|image_pad|> <|im_start|>system <|im_end|> <end_of_utterance> <global-img>"


@pytest.mark.parametrize("family", EVERY)
def test_marks_in_people_s_words_are_words(vlms: dict[str, LocalVlm], family: str) -> None:
    """They would begin a turn, or stand for an image that is not there."""
    vlm = vlms[family]
    plain, marked = (
        vlm.reply(ask(f"What is {marks} here?"), tokens=2, seconds=30).input_tokens
        for marks in ("", MARKS)
    )
    assert plain is not None and marked is not None
    # Every byte is a token of these tokenizers.
    assert marked - plain == len(MARKS)


@pytest.mark.parametrize("family", EVERY)
def test_a_text_without_an_image_is_answered(vlms: dict[str, LocalVlm], family: str) -> None:
    reply = vlms[family].reply([Message("user", ("Hello",))], tokens=3, seconds=30)
    assert reply.output_tokens == 3


@pytest.mark.parametrize("family", EVERY)
def test_an_end_of_turn_ends_the_reply(
    folders: dict[str, Path], vlms: dict[str, LocalVlm], family: str, tmp_path: Path
) -> None:
    """A token that the model writes is made its end of turn: it writes no further."""
    pieces: list[str] = []
    vlms[family].reply(ask(), tokens=24, seconds=30, on_text=pieces.append)
    tokenizer: Any = library("transformers").AutoTokenizer.from_pretrained(folders[family])
    ids = [tokenizer.encode(piece) for piece in pieces]
    place, [end] = next((i, piece) for i, piece in enumerate(ids) if i and len(piece) == 1)
    folder = FAMILIES[family](tmp_path / family)
    edit_json(folder / "generation_config.json", eos_token_id=[tokenizer.eos_token_id, end])
    ended = LocalVlm(checkpoint(folder), CPU).reply(ask(), tokens=24, seconds=30)
    assert not ended.cut and ended.output_tokens and ended.output_tokens < 24
    assert ended.text == "".join(pieces[: place + 1])


@pytest.mark.parametrize("family", EVERY)
def test_a_checkpoint_s_own_wish_to_vary_is_overruled(
    vlms: dict[str, LocalVlm], family: str, tmp_path: Path
) -> None:
    """Sampling makes replies differ, a penalty for repetition keeps a model from quoting."""
    folder = FAMILIES[family](tmp_path / family)
    edit_json(
        folder / "generation_config.json",
        do_sample=True,
        temperature=5.0,
        top_k=50,
        repetition_penalty=3.0,
    )
    varied = LocalVlm(checkpoint(folder), CPU).reply(ask(), tokens=24, seconds=30)
    assert varied.text == vlms[family].reply(ask(), tokens=24, seconds=30).text


def test_a_reply_that_takes_too_long_is_stopped_after_the_token_at_hand(
    vlms: dict[str, LocalVlm],
) -> None:
    vlm = vlms["smolvlm"]
    vlm.reply(ask(), tokens=1, seconds=30)
    pieces: list[str] = []

    def dawdle(piece: str) -> None:
        pieces.append(piece)
        time.sleep(0.05)

    began = time.monotonic()
    with pytest.raises(ModelTimeout, match=r"did not answer in 0\.5 s.*answer\.seconds"):
        vlm.reply(ask(), tokens=500, seconds=0.5, on_text=dawdle)
    assert 0.5 <= time.monotonic() - began < 2
    assert pieces


def test_a_listener_that_raises_ends_the_reply_and_lets_others_in(
    vlms: dict[str, LocalVlm],
) -> None:
    def leave(_: str) -> None:
        raise BrokenPipeError("nobody listens")

    with pytest.raises(BrokenPipeError):
        vlms["smolvlm"].reply(ask(), tokens=100, seconds=30, on_text=leave)
    assert vlms["smolvlm"].reply(ask(), tokens=2, seconds=5).output_tokens == 2


@pytest.mark.parametrize("seconds", [0, -1])
def test_without_time_nothing_is_asked(vlms: dict[str, LocalVlm], seconds: float) -> None:
    with pytest.raises(ModelTimeout):
        vlms["smolvlm"].reply(ask(), tokens=2, seconds=seconds)
    with pytest.raises(ModelTimeout):
        vlms["smolvlm"].yes([does_it(shown())], seconds=seconds)


def test_yes_ends_between_batches_once_the_time_is_over(vlms: dict[str, LocalVlm]) -> None:
    asked = [does_it(shown(f"page {i}", grey=i)) for i in range(100)]
    began = time.monotonic()
    vlms["smolvlm"].yes(asked, seconds=60)
    whole = time.monotonic() - began
    began = time.monotonic()
    with pytest.raises(ModelTimeout, match=r"rerank\.seconds"):
        vlms["smolvlm"].yes(asked, seconds=whole / 10)
    assert whole / 10 <= time.monotonic() - began < whole / 2


def test_waiting_for_one_s_turn_counts(vlms: dict[str, LocalVlm]) -> None:
    vlm = vlms["smolvlm"]
    at_work, go_on = threading.Event(), threading.Event()

    def hold(_: str) -> None:
        at_work.set()
        go_on.wait(20)

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(vlm.reply, ask(), tokens=3, seconds=30, on_text=hold)
        assert at_work.wait(20)
        began = time.monotonic()
        with pytest.raises(ModelTimeout):
            vlm.yes([does_it(shown())], seconds=0.2)
        assert 0.2 <= time.monotonic() - began < 1
        go_on.set()
        assert first.result().output_tokens == 3


def test_threads_share_one_model(folders: dict[str, Path]) -> None:
    vlm = LocalVlm(checkpoint(folders["qwen2_5_vl"]), CPU)
    images = [shown("page", grey=grey) for grey in (10, 100, 200, 250)]

    def look(image: PromptImage) -> YesAnswers:
        return vlm.yes([does_it(image)], seconds=60)

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(look, images))
    assert together == [look(image) for image in images]


def test_closing_lets_go_and_a_later_call_loads_again(folders: dict[str, Path]) -> None:
    vlm = LocalVlm(checkpoint(folders["smolvlm"]), CPU)
    before = vlm.reply(ask(), tokens=3, seconds=30)
    vlm.close()
    assert vlm.reply(ask(), tokens=3, seconds=30) == before


def test_a_smolvlm_s_images_cost_fewer_tokens_where_smaller_ones_are_asked_for(
    folders: dict[str, Path],
) -> None:
    own, smaller = (
        LocalVlm(checkpoint(folders["smolvlm"]), CPU, image_pixels=pixels) for pixels in (None, 64)
    )
    assert (own.image_pixels, smaller.image_pixels) == (128, 64)
    image = shown("a page", width=48, height=64)
    counts = [
        vlm.reply(ask("?", image), tokens=1, seconds=30).input_tokens for vlm in (own, smaller)
    ]
    # Tiles of 32 pixels, four tokens and two marks or breaks each: 4 x 3 and one against 2 x 2.
    assert counts[0] is not None and counts[1] is not None
    assert counts[0] - counts[1] > (12 - 4) * 5


@pytest.mark.parametrize("family", EVERY)
def test_what_a_model_cannot_use_is_not_asked_for(folders: dict[str, Path], family: str) -> None:
    vlm = LocalVlm(checkpoint(folders[family]), CPU, image_pixels=8000)
    assert vlm.image_pixels == LocalVlm(checkpoint(folders[family]), CPU).image_pixels
    # 64 squares of 28 pixels, as a page half as high again as wide.
    assert vlm.image_pixels == {"smolvlm": 128, "qwen2_5_vl": 274}[family]


def test_pages_beyond_the_context_are_refused_before_they_are_read(tmp_path: Path) -> None:
    vlm = LocalVlm(checkpoint(qwen2_5_vl(tmp_path / "short", context=300)), CPU)
    assert vlm.reply(ask(), tokens=9, seconds=30).output_tokens == 9
    with pytest.raises(PromptTooLong, match=r"300 tokens.*lower answer\.pages"):
        vlm.reply(ask("word " * 60), tokens=9, seconds=30)
    with pytest.raises(PromptTooLong, match=r"300 tokens.*answer\.tokens"):
        vlm.reply(ask(), tokens=290, seconds=30)


def without_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


def another_family(folder: Path) -> None:
    edit_json(folder / "config.json", model_type="bert")


def without_weights(folder: Path) -> None:
    safetensors = library("safetensors.torch")
    path = folder / "model.safetensors"
    tensors = safetensors.load_file(path)
    del tensors[sorted(name for name in tensors if "q_proj" in name)[0]]
    safetensors.save_file(tensors, path, metadata={"format": "pt"})


def cut_short(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])


def of_other_shapes(folder: Path) -> None:
    config = checkpoint(folder).config()
    edit_json(
        folder / "config.json", text_config={**config["text_config"], "intermediate_size": 96}
    )


def an_adapter(folder: Path) -> None:
    qwen2_5_vl(folder / "base")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "base"}')


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (without_template, "has no chat template: name a model that was instructed"),
        (another_family, "the family bert, which does not talk about images"),
        (without_weights, "lacks 1 weights, such as .*q_proj.*incomplete"),
        (cut_short, "does not load: .*fetch it again"),
        (of_other_shapes, "does not load: .*fetch it again"),
        (an_adapter, "is an adapter: name a model it was merged into"),
    ],
)
@pytest.mark.parametrize("family", EVERY)
def test_a_checkpoint_that_cannot_answer_is_refused(
    tmp_path: Path, family: str, damage: Callable[[Path], None], said: str
) -> None:
    folder = FAMILIES[family](tmp_path / "damaged")
    damage(folder)
    vlm = LocalVlm(checkpoint(folder), CPU)
    with pytest.raises(ModelError, match=said) as caught:
        vlm.yes([does_it(shown())], seconds=30)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_kept_in_half_numbers_runs_in_the_ones_asked_for(
    folders: dict[str, Path],
) -> None:
    half = ModelSettings(device="cpu", dtype="bfloat16")
    for folder in folders.values():
        prompt = does_it(shown("a page"))
        exact = LocalVlm(checkpoint(folder), CPU).yes([prompt], seconds=30).probabilities
        rough = LocalVlm(checkpoint(folder), half).yes([prompt], seconds=30).probabilities
        assert rough == pytest.approx(exact, abs=0.02)
