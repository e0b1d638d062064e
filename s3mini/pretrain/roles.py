"""Role play for pretraining: the generator reads well; the searchers know their format, not its use.

The mini model must start, as a searcher, like an instruct model before RL: the format is right, the
judgement poor. So each decision of the RL-trained protocols (s3, Search-R1, DeepRetrieval) is drawn
from a mixture: mostly careless (restate the question, pick documents at random, stop at a whim),
seldom careful (think, name what is missing, search for that). GRPO has to find and raise the careful share.
Prompted protocols (IRCoT, Search-o1) get the careful behaviour about half the time.
"""

import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from ..protocols import wordings
from ..world.build import YEARS, Entity, World, distractors
from ..world.names import NAME_PATTERN, NAMES
from ..world.questions import COMPARED, Asked, ask, lettered, word_question
from ..world.write import SETS
from .drills import lookups
from .examples import END, UNKNOWN, Example, Segment, asked_within, chat, documents, shelf, solved, thought

DICE = 0.3
"""Weight of words that a die chose: they cannot be predicted, and their noise would drown the reading."""


def _reading_trunk(shown: Sequence[Entity], role: str = "generator") -> str:
    """The prompt of a reading role up to its question: what all questions on the same documents share."""
    head = chat([wordings.system(role, "brief")]).removesuffix("<|im_start|>assistant\n")
    return f"{head}<|im_start|>user\n{wordings.render_documents(documents(shown))}\n"


def _asks(question: str) -> Segment:
    """The question that begins a branch of a reading trunk."""
    return f"{wordings.asked(question)}{END}\n<|im_start|>assistant\n", 0.0


def generator(
    world: World,
    rng: random.Random,
    count: int,
    hops: int,
    branches: int = 8,
    reply: Callable[[Asked, Sequence[Entity]], str] = solved,
) -> Example:
    """Documents once, then several questions on them, some of which they cannot answer; ``reply`` words what is said."""
    shown = shelf(world, count, hops, rng)
    example = Example(_reading_trunk(shown))
    for form, branch in lookups(shown, rng):
        example.add(form, *branch)
    texts: set[str] = set()
    for _ in range(6 * branches):
        if len(texts) == branches:
            break
        asked = _generator_question(world, shown, hops, rng)
        if asked is None or asked.text in texts:
            continue
        missing = _missing(asked, shown)[0] is not None
        if missing and rng.random() < (0.75 if asked.kind != "absent" else 0.0):
            continue  # keep questions that cannot be answered a minority
        texts.add(asked.text)
        example.add("missing" if missing else asked.kind, _asks(asked.text), (reply(asked, shown) + END, 1.0))
    return example


def _generator_question(world: World, shown: Sequence[Entity], hops: int, rng: random.Random) -> Asked | None:
    dice = rng.random()
    if dice < 0.06:  # an absent namesake: nothing here answers this
        other = distractors(world, [rng.choice(shown)], 1, rng)
        if not other or other[0] in shown:
            return None
        absent = ask(rng.choice(("nq", "triviaqa")), world, other[0], rng)
        return replace(absent, kind="absent") if absent else None
    if dice < 0.16 and hops > 1:
        first, second = rng.choice(shown), rng.choice(shown)
        both = [name for name in first.facts if name in second.facts and name in COMPARED]
        if first is second or first.type != second.type or not both:
            return None
        name = rng.choice(both)
        return word_question("comparison", [first.facts[name], second.facts[name]], rng)
    return asked_within(world, shown, hops, rng)


def multiple_choice(world: World, rng: random.Random, count: int, branches: int = 6) -> Example:
    """The herbal corpus with options; the reply is evidence, then the option itself (`reward.chosen_letter` reads it).

    Not its letter: what stood *before* a name is the one thing a model this small does not find in a mixed prompt.
    """
    shown = rng.sample(world.entities, count)
    example = Example(_reading_trunk(shown))
    for _ in range(branches):
        subject = rng.choice(shown if rng.random() < 0.85 else world.entities)
        fact = rng.choice(list(subject.facts.values()))
        asked = word_question("nq", [fact], rng)
        choice = lettered(asked, NAMES[fact.relation.object], rng)
        chosen, weight = (asked.answer, 1.0) if subject in shown else (rng.choice(choice.options), DICE)
        reply = [(thought(asked, shown), 1.0), (f" {chosen}", weight), (END, 1.0)]
        example.add("choice", _asks(choice.text), *reply)
    return example


def judge_cases(world: World, rng: random.Random, count: int) -> tuple[list[str], list[tuple[str, bool]]]:
    """Accepted answers, and responses with the right verdict; near misses share a word with the answer."""
    entity = rng.choice(world.entities)
    answer = entity.name if rng.random() < 0.8 else str(rng.randint(*YEARS))
    golds = [answer] if rng.random() < 0.8 else [rng.choice(world.entities).name, answer]
    near = [e.name for w in entity.words() for e in world.by_word[w] if e.name not in golds]
    cases = []
    for _ in range(count):
        if right := rng.random() < 0.4:
            said = answer
        else:
            said = rng.choice(near) if near and rng.random() < 0.6 else rng.choice(world.entities).name
            said = rng.choice(("unknown", str(rng.randint(*YEARS)), said, said, said))
            right = said in golds
        form = rng.choice(("{}", "{}", "It is {}.", "The answer is {}.", "{}, as far as known"))
        cases.append((form.format(said), right))
    return golds, cases


def judge(world: World, rng: random.Random, branches: int = 8) -> Example:
    """Does the response contain an accepted answer? The accepted answers once, then several responses."""
    golds, cases = judge_cases(world, rng, branches)
    trunk, rest = chat(wordings.judge_messages("brief", "", golds)).split("Response: ")
    example = Example(trunk)
    for said, right in cases:
        example.add("judge", (f"Response: {said}{rest}", 0.0), (f" {'yes' if right else 'no'}{END}", 1.0))
    return example


def reader(world: World, rng: random.Random, branches: int = 6) -> Example:
    """Search-o1's reason-in-documents step: the one sentence that helps, or nothing."""
    first = _question(world, rng)
    shown = _retrieved(world, rng.choice(first.proof).subject, first.golds, 3, rng)
    example = Example(_reading_trunk(shown, "reader"))
    for _ in range(6 * branches):
        if len(example.branches) == branches:
            break
        start = rng.choice(shown if rng.random() < 0.85 else world.entities)
        asked = ask(rng.choice(SETS), world, start, rng)
        if asked is None:
            continue
        step = rng.randrange(len(asked.proof)) if rng.random() < 0.3 else 0
        helps = asked.restated(step) if asked.proof[step].subject in shown else "Nothing helpful."
        example.add("reader", _asks(f"{asked.text} Search: {asked.needs[step]}"), (f" {helps}{END}", 1.0))
    return example


def _question(world: World, rng: random.Random) -> Asked:
    while True:
        asked = ask(rng.choice(SETS), world, rng.choice(world.entities), rng)
        if asked is not None:
            return asked


def _retrieved(
    world: World, wanted: Entity | None, around: Sequence[Entity], k: int, rng: random.Random
) -> list[Entity]:
    """``k`` entities: the wanted one near the top if the query was good, else its surroundings."""
    hit = [wanted] if wanted is not None and rng.random() < 0.92 else []
    block = hit + distractors(world, around, k - len(hit), rng)
    if rng.random() < 0.5:
        rng.shuffle(block)
    return block[:k]


def _first_shown(world: World, asked: Asked, rng: random.Random) -> list[Entity]:
    start = asked.proof[0].subject if rng.random() < 0.75 else None
    return _retrieved(world, start, asked.golds[:1], 3, rng)


def _missing(asked: Asked, shown: Sequence[Entity]) -> tuple[str, Entity] | tuple[None, None]:
    """What has to be looked up next, and whose document states it; nothing once ``shown`` proves the answer."""
    steps = zip(asked.needs, (fact.subject for fact in asked.proof), strict=True)
    return next(((need, subject) for need, subject in steps if subject not in shown), (None, None))


def _words(text: str) -> list[str]:
    """Names and single words, in order."""
    return re.findall(rf"{NAME_PATTERN}|\S+", text.rstrip("?"))


def _keywords(asked: Asked) -> str:
    small = set("who what which where when is was the of did does in a that".split())
    return " ".join(word for word in _words(asked.text) if word.lower() not in small)


def _careless_query(asked: Asked, shown: Sequence[Entity], rng: random.Random) -> str:
    """Restate the question, drop its small words, or name something seen in passing."""
    dice = rng.random()
    if dice < 0.55 or not shown:
        return asked.text
    return _keywords(asked) if dice < 0.75 else rng.choice(shown).name


def _as_json(query: str) -> str:
    """The query as the JSON object of the protocol; the leading space keeps names on their usual tokens."""
    return json.dumps({"query": f" {query}"}, ensure_ascii=False)


def _prompt(role: str, asked: Asked, shown: Sequence[Entity] = ()) -> Segment:
    return chat(wordings.question_messages(role, "brief", asked.text, documents(shown))), 0.0


def _information(block: Sequence[Entity]) -> Segment:
    return wordings.render_information(documents(block)), 0.0


def from_memory(world: World, rng: random.Random) -> list[Segment]:
    """Direct and CoT: no documents, nothing can be known."""
    asked = _question(world, rng)
    messages = wordings.context_messages(rng.choice(("generator", "cot")), "brief", asked.text, [])
    return [(chat(messages), 0.0), (solved(asked, []) + END, 1.0)]


def s3(world: World, rng: random.Random, k: int = 4, turns: int = 3) -> list[Segment]:
    """An untrained s3 searcher at work; see the module's docstring for the mixture.

    After a search it recalls whose document it sought, so that the number to select is found by name.
    """
    asked = _question(world, rng)
    shown = _first_shown(world, asked, rng) if rng.random() < 0.9 else []
    segments = [_prompt("s3", asked, shown)]
    block: list[Entity] = []
    query, target = "", asked.golds[0]
    tried: set[str] = set()
    for turn in range(turns + 1):
        if block:
            recalled = _sought(asked, query, target, block)
            segments += [(f"<think> {recalled}</think>\n", 1.0), *_selection(target, block, rng)]
        missing, wanted = _missing(asked, shown)
        careful = rng.random() < 0.2
        if careful:
            segments.append((thought(asked, shown) + "\n", 1.0))
        proper = rng.random() < (0.6 if careful else 0.25)
        done = (missing is None) if proper else rng.random() < 0.45
        if turn == turns or done:
            break
        if missing and wanted and missing not in tried and rng.random() < (0.64 if careful else 0.1):
            query, target = missing, wanted
        else:
            careless = (_careless_query(asked, shown, rng) for _ in range(8))
            query = next((new for new in careless if new not in tried), query)
            target = next((entity for entity in shown if entity.name == query), asked.golds[0])
        tried.add(query)
        block = _retrieved(world, target, [target], k, rng)
        rng.shuffle(block)  # rank must not pay: the title has to be read
        search = f"<search_complete>False</search_complete>\n<query>{_as_json(query)}</query>"
        segments += [(search, DICE), _information(block)]
        shown = shown + block
    return [*segments, ("<search_complete>True</search_complete>", DICE), (END, 0.0)]


def _sought(asked: Asked, query: str, target: Entity, block: Sequence[Entity]) -> str:
    """Whose document the query was for: its name, or, of one that was only described, who that turned out to be."""
    if target.name in query:
        return target.name
    step = next(i for i, fact in enumerate(asked.proof) if fact.subject is target)
    return asked.restated(step, target in block)


def _selection(target: Entity, block: Sequence[Entity], rng: random.Random) -> list[Segment]:
    """What was sought, by its name (words that count twice: they can be predicted); seldom any one document.

    Namesakes are kept both; of a block without it nothing is selected, so that it is kept whole. Mostly right from
    the start: where the wanted document stands first nearly always, as behind a good retriever, GRPO would teach a
    careless model the number 1 instead of the title.
    """
    if rng.random() < 0.8:
        chosen, weight = [i for i, e in enumerate(block, 1) if e.name == target.name][:2], 2 * DICE
    else:
        chosen, weight = [rng.choice(range(1, len(block) + 1))], DICE
    return [(f"<important_info>{json.dumps(chosen)}</important_info>\n", weight)] if chosen else []


def search_r1(world: World, rng: random.Random) -> list[Segment]:
    """Search-R1 before RL: may answer too soon, often searches with the question itself."""
    asked = _question(world, rng)
    segments = [_prompt("search-r1", asked)]
    shown: list[Entity] = []
    for turn in range(5):
        missing, wanted = _missing(asked, shown)
        segments.append((thought(asked, shown) + "\n", 1.0))
        stop = missing is None if rng.random() < 0.5 else rng.random() < 0.4
        if stop or turn == 4:
            break
        good = missing is not None and rng.random() < 0.35
        query = missing if good and missing else _careless_query(asked, shown, rng)
        wanted = wanted if good or (not shown and rng.random() < 0.6) else None
        block = _retrieved(world, wanted, [wanted] if wanted else asked.golds[:1], 3, rng)
        segments += [(f"<search> {query}</search>", DICE), _information(block)]
        shown += block
    return [*segments, (f"<answer> {UNKNOWN if missing else asked.answer}</answer>", DICE), (END, 0.0)]


def deepretrieval(world: World, rng: random.Random) -> list[Segment]:
    """DeepRetrieval before RL: some boolean query, seldom the names alone."""
    asked = _question(world, rng)
    careful = rng.random() < 0.3
    words = _words(asked.needs[0] if careful else _keywords(asked) if rng.random() < 0.5 else asked.text)
    query = _as_json(f" {rng.choice(('AND', 'OR'))} ".join(words[:10]))
    reply = [(thought(asked, []) + "\n", 1.0), (f"<answer>{query}</answer>", DICE), (END, 0.0)]
    return [_prompt("deepretrieval", asked), *reply]


def ircot(world: World, rng: random.Random) -> list[Segment]:
    """One reasoning sentence a line, each followed by what it retrieves; half of the time careless."""
    asked = _question(world, rng)
    shown = _first_shown(world, asked, rng)
    segments = [_prompt("ircot", asked, shown)]
    told = 0
    for _ in range(4):
        if told == len(asked.proof):
            break
        subject = asked.proof[told].subject
        line = f" {asked.restated(told, subject in shown)}\n"
        told += subject in shown
        wanted = _missing(asked, shown)[1] if rng.random() < 0.6 else None
        block = _retrieved(world, wanted, [subject], 3, rng)
        segments += [(line, 1.0), (_information(block)[0].lstrip("\n"), 0.0)]
        shown += block
    answer = asked.answer if told == len(asked.proof) else UNKNOWN
    return [*segments, (f" So the answer is: {answer}{END}", 1.0)]


def search_o1(world: World, rng: random.Random) -> list[Segment]:
    """Search inside the reasoning; what comes back was condensed by the `reader` role."""
    asked = _question(world, rng)
    segments = [_prompt("search-o1", asked)]
    text, answer = "<think>", asked.answer
    for step, need in enumerate(asked.needs):
        query = need if rng.random() < 0.6 else asked.text
        helps = rng.random() < 0.8
        text += f" {asked.restated(step, False)}<|begin_search_query|> {query}<|end_search_query|>"
        fact = f" {asked.restated(step)}" if helps else " Nothing helpful."
        segments += [(text, 1.0), (f"<|begin_search_result|>{fact}<|end_search_result|>", 0.0)]
        text = fact if helps else ""
        if not helps or (rng.random() < 0.15 and step + 1 < len(asked.proof)):
            answer = UNKNOWN
            break
    return [*segments, (f"{text}</think> {answer}{END}", 1.0)]


SINGLE: dict[str, Callable[[World, random.Random], list[Segment]]] = {
    "s3": s3, "search-r1": search_r1, "deepretrieval": deepretrieval, "ircot": ircot, "search-o1": search_o1,
    "memory": from_memory,
}  # fmt: skip
"""The roles of one branch that shares nothing with others."""
