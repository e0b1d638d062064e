"""Role play for pretraining: the generator reads well; the searchers know their format, not its use.

The mini model must start, as a searcher, like an instruct model before RL: the format is right, the
judgement poor. So each decision of the RL-trained protocols (s3, Search-R1, DeepRetrieval) is drawn
from a mixture: mostly careless (restate the question, pick documents at random, stop at a whim),
seldom careful (think, name what is missing, search for that). GRPO has to find and raise the careful share.
Prompted protocols (IRCoT, Search-o1) get the careful behaviour about half the time.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence

from ..protocols.wordings import asked as asked_line
from ..protocols.wordings import (
    context_messages,
    judge_messages,
    question_messages,
    render_documents,
    render_information,
    system,
)
from ..world.build import YEARS, Entity, World, distractors
from ..world.names import NAME_PATTERN
from ..world.questions import COMPARED, Asked, ask, ask_comparison
from ..world.write import SETS, with_options
from .drills import lookups
from .samples import (
    END,
    Sample,
    Segment,
    as_json,
    asked_within,
    chat,
    documents,
    read,
    shelf,
    solved,
    thought,
)

DICE = 0.3
"""Weight of words that a die chose: they cannot be predicted, and their noise would drown the reading."""


# --- the generator -------------------------------------------------------------------------------


def _reading_trunk(shown: Sequence[Entity], role: str = "generator") -> str:
    """The prompt of a reading role up to its question: what all questions on the same documents share."""
    head = chat([system(role, "brief")]).removesuffix("<|im_start|>assistant\n")
    return f"{head}<|im_start|>user\n{render_documents(documents(shown))}\n"


def _asked(question: str, reply: str) -> list[Segment]:
    """A branch of a reading trunk: the question, then the reply that is learnt."""
    return [(f"{asked_line(question)}{END}\n<|im_start|>assistant\n", 0.0), (f"{reply}{END}", 1.0)]


def generator(world: World, rng: random.Random, count: int, hops: int, branches: int = 8) -> Sample:
    """Documents once, then several questions on them, some of which they cannot answer."""
    shown = shelf(world, count, hops, rng)
    found = lookups(shown, rng)
    sample = Sample(_reading_trunk(shown), [branch for _, branch in found], [kind for kind, _ in found])
    texts: set[str] = set()
    for _ in range(6 * branches):
        if len(texts) == branches:
            break
        drawn = _generator_question(world, shown, hops, rng)
        if drawn is None or drawn[1].text in texts:
            continue
        kind, asked = drawn
        missing = read(asked, shown)[1] is not None
        if missing and rng.random() < (0.75 if kind != "absent" else 0.0):
            continue  # keep questions that cannot be answered a minority
        texts.add(asked.text)
        sample.branches.append(_asked(asked.text, solved(asked, shown)))
        sample.kinds.append("missing" if missing else kind)
    return sample


def _generator_question(
    world: World, shown: Sequence[Entity], hops: int, rng: random.Random
) -> tuple[str, Asked] | None:
    dice = rng.random()
    if dice < 0.06:  # an absent namesake: nothing here answers this
        other = distractors(world, [rng.choice(shown)], 1, rng)
        if not other or other[0] in shown:
            return None
        absent = ask(rng.choice(("nq", "triviaqa")), world, other[0], rng)
        return ("absent", absent) if absent else None
    if dice < 0.16 and hops > 1:
        first, second = rng.choice(shown), rng.choice(shown)
        both = [n for n in first.facts if n in second.facts and n in COMPARED]
        if first is second or first.type != second.type or not both:
            return None
        name = rng.choice(both)
        return "comparison", ask_comparison(first.facts[name], second.facts[name])
    return asked_within(world, shown, hops, rng)


def multiple_choice(world: World, rng: random.Random, count: int, branches: int = 6) -> Sample:
    """The herbal corpus with options; the reply is evidence, then the option itself (`reward.chosen_letter` reads it).

    Not its letter: what stood *before* a name is the one thing a model this small does not find in a mixed prompt.
    """
    shown = rng.sample(world.entities, count)
    sample = Sample(_reading_trunk(shown), [], [])
    for _ in range(branches):
        present = rng.random() < 0.85
        fact = rng.choice(list(rng.choice(shown if present else world.entities).facts.values()))
        asked = Asked(
            rng.choice(fact.relation.questions).format(s=fact.subject.name),
            fact.value,
            [fact],
            [fact.subject.name],
        )
        choice = with_options(asked, fact.relation.object, rng)
        evidence, missing = read(asked, shown)
        chosen = rng.choice(choice.options) if missing else asked.answer
        asks, _ = _asked(choice.text, "")
        reply = [(f"<think>{evidence}</think>", 1.0), (f" {chosen}", DICE if missing else 1.0), (END, 1.0)]
        sample.branches.append([asks, *reply])
        sample.kinds.append("choice")
    return sample


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


def judge(world: World, rng: random.Random, branches: int = 8) -> Sample:
    """Does the response contain an accepted answer? The accepted answers once, then several responses."""
    golds, cases = judge_cases(world, rng, branches)
    first, rest = chat(judge_messages("brief", "", golds)).split("Response: ")
    sample = Sample(first, [], ["judge"] * branches)
    for said, right in cases:
        sample.branches.append([(f"Response: {said}{rest}", 0.0), (f" {'yes' if right else 'no'}{END}", 1.0)])
    return sample


def from_memory(world: World, rng: random.Random) -> list[Segment]:
    """Direct and CoT: no documents, nothing can be known."""
    asked = _question(world, rng)
    role = rng.choice(("generator", "cot"))
    prompt = chat(context_messages(role, "brief", asked.text, []))
    return [(prompt, 0.0), (solved(asked, []) + END, 1.0)]


# --- what a retriever would show -----------------------------------------------------------------


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
    found = hit + distractors(world, around, k - len(hit), rng)
    if rng.random() < 0.5:
        rng.shuffle(found)
    return found[:k]


def _wanted(asked: Asked, shown: Sequence[Entity]) -> Entity | None:
    seen = {e.id for e in shown}
    return next((f.subject for f in asked.proof if f.subject.id not in seen), None)


def _first_shown(world: World, asked: Asked, k: int, rng: random.Random) -> list[Entity]:
    start = asked.proof[0].subject if rng.random() < 0.75 else None
    return _retrieved(world, start, asked.golds[:1], k, rng)


def _keywords(asked: Asked) -> str:
    small = set("who what which where when is was the of did does in a that".split())
    return " ".join(w for w in units(asked.text) if w.lower() not in small)


def units(question: str) -> list[str]:
    """Names and single words, in order."""
    return re.findall(rf"{NAME_PATTERN}|\S+", question.rstrip("?"))


def careless_query(asked: Asked, shown: Sequence[Entity], rng: random.Random) -> str:
    """Restate the question, drop its small words, or name something seen in passing."""
    dice = rng.random()
    if dice < 0.55 or not shown:
        return asked.text
    return _keywords(asked) if dice < 0.75 else rng.choice(shown).name


# --- the searchers -------------------------------------------------------------------------------


def s3(world: World, rng: random.Random, k: int = 4, turns: int = 3) -> list[Segment]:
    """An untrained s3 searcher at work; see the module's docstring for the mixture.

    After a search it recalls whose document it sought, so that the number to select is found by name.
    """
    asked = _question(world, rng)
    shown = _first_shown(world, asked, 3, rng) if rng.random() < 0.9 else []
    segments: list[Segment] = [(chat(question_messages("s3", "brief", asked.text, documents(shown))), 0.0)]
    block: list[Entity] = []
    query, target = "", asked.golds[0]
    tried: set[str] = set()
    for turn in range(turns + 1):
        if block:
            recalled = _sought(asked, query, target, block)
            segments += [(f"<think> {recalled}</think>\n", 1.0), *_selection(target, block, rng)]
        missing = read(asked, shown)[1]
        careful = rng.random() < 0.2
        if careful:
            segments.append((thought(asked, shown) + "\n", 1.0))
        proper = rng.random() < (0.6 if careful else 0.25)
        done = (missing is None) if proper else rng.random() < 0.45
        if turn == turns or done:
            return [*segments, ("<search_complete>True</search_complete>", DICE), (END, 0.0)]
        wanted = _wanted(asked, shown)
        if missing and wanted and missing not in tried and rng.random() < (0.64 if careful else 0.1):
            query, target = missing, wanted
        else:
            query = next(
                (q for _ in range(8) if (q := careless_query(asked, shown, rng)) not in tried), query
            )
            target = next((entity for entity in shown if entity.name == query), asked.golds[0])
        tried.add(query)
        ask_again = f"<search_complete>False</search_complete>\n<query>{as_json(query)}</query>"
        block = _retrieved(world, target, [target], k, rng)
        rng.shuffle(block)  # rank must not pay: the title has to be read
        segments += [(ask_again, DICE), (render_information(documents(block)), 0.0)]
        shown = shown + block
    return segments


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
    numbers = range(1, len(block) + 1)
    if rng.random() < 0.8:
        chosen, weight = [i for i in numbers if block[i - 1].name == target.name][:2], 2 * DICE
    else:
        chosen, weight = [rng.choice(numbers)], DICE
    return [(f"<important_info>{json.dumps(chosen)}</important_info>\n", weight)] if chosen else []


def search_r1(world: World, rng: random.Random) -> list[Segment]:
    """Search-R1 before RL: may answer too soon, often searches with the question itself."""
    asked = _question(world, rng)
    segments: list[Segment] = [(chat(question_messages("search-r1", "brief", asked.text)), 0.0)]
    shown: list[Entity] = []
    for turn in range(5):
        evidence, missing = read(asked, shown)
        segments.append((f"<think>{evidence}</think>\n", 1.0))
        stop = missing is None if rng.random() < 0.5 else rng.random() < 0.4
        if stop or turn == 4:
            answer = "unknown" if missing else asked.answer
            return [*segments, (f"<answer> {answer}</answer>", DICE), (END, 0.0)]
        good = missing is not None and rng.random() < 0.35
        query = missing if good and missing else careless_query(asked, shown, rng)
        wanted = _wanted(asked, shown) if good or (not shown and rng.random() < 0.6) else None
        block = _retrieved(world, wanted, [wanted] if wanted else asked.golds[:1], 3, rng)
        segments += [(f"<search> {query}</search>", DICE), (render_information(documents(block)), 0.0)]
        shown += block
    return segments


def deepretrieval(world: World, rng: random.Random) -> list[Segment]:
    """DeepRetrieval before RL: some boolean query, seldom the names alone."""
    asked = _question(world, rng)
    name = asked.needs[0]
    careful = rng.random() < 0.3
    words = units(name if careful else _keywords(asked) if rng.random() < 0.5 else asked.text)
    joined = f" {rng.choice(('AND', 'OR'))} ".join(words[:10])
    query = json.dumps({"query": f" {joined}"}, ensure_ascii=False)
    think = thought(asked, []) + "\n"
    prompt = chat(question_messages("deepretrieval", "brief", asked.text))
    return [(prompt, 0.0), (think, 1.0), (f"<answer>{query}</answer>", DICE), (END, 0.0)]


def ircot(world: World, rng: random.Random) -> list[Segment]:
    """One reasoning sentence a line, each followed by what it retrieves; half of the time careless."""
    asked = _question(world, rng)
    shown = _first_shown(world, asked, 3, rng)
    segments: list[Segment] = [(chat(question_messages("ircot", "brief", asked.text, documents(shown))), 0.0)]
    told = 0
    for _ in range(4):
        seen = {e.id for e in shown}
        if told == len(asked.proof):
            break
        step, fact = told, asked.proof[told]
        present = fact.subject.id in seen
        told += present
        line = f" {asked.restated(step, present)}"
        wanted = _wanted(asked, shown) if rng.random() < 0.6 else None
        block = _retrieved(world, wanted, [fact.subject], 3, rng)
        segments += [(f"{line}\n", 1.0), (render_information(documents(block)).lstrip("\n"), 0.0)]
        shown += block
    answer = asked.answer if told == len(asked.proof) else "unknown"
    return [*segments, (f" So the answer is: {answer}{END}", 1.0)]


def search_o1(world: World, rng: random.Random) -> list[Segment]:
    """Search inside the reasoning; what comes back was condensed by the `reader` role."""
    asked = _question(world, rng)
    segments: list[Segment] = [(chat(question_messages("search-o1", "brief", asked.text)), 0.0)]
    text = "<think>"
    for i, need in enumerate(asked.needs):
        query = need if rng.random() < 0.6 else asked.text
        found = rng.random() < 0.8
        text += f" {asked.restated(i, False)}<|begin_search_query|> {query}<|end_search_query|>"
        fact = asked.restated(i)
        result = f" {fact}" if found else " Nothing helpful."
        segments += [(text, 1.0), (f"<|begin_search_result|>{result}<|end_search_result|>", 0.0)]
        text = ""
        if not found:
            return [*segments, (f"</think> unknown{END}", 1.0)]
        if rng.random() < 0.15 and i + 1 < len(asked.proof):
            return [*segments, (f" {fact}</think> unknown{END}", 1.0)]
        text = f" {fact}"
    return [*segments, (f"{text}</think> {asked.answer}{END}", 1.0)]


def reader(world: World, rng: random.Random, branches: int = 6) -> Sample:
    """Search-o1's reason-in-documents step: the one sentence that helps, or nothing."""
    first = _question(world, rng)
    shown = _retrieved(world, rng.choice(first.proof).subject, first.golds, 3, rng)
    sample = Sample(_reading_trunk(shown, "reader"), [], [])
    for _ in range(6 * branches):
        if len(sample.branches) == branches:
            break
        start = rng.choice(shown if rng.random() < 0.85 else world.entities)
        asked = ask(rng.choice(SETS), world, start, rng)
        if asked is None:
            continue
        step = rng.randrange(len(asked.proof)) if rng.random() < 0.3 else 0
        found = asked.restated(step) if asked.proof[step].subject in shown else "Nothing helpful."
        sample.branches.append(_asked(f"{asked.text} Search: {asked.needs[step]}", f" {found}"))
        sample.kinds.append("reader")
    return sample


SINGLE: dict[str, Callable[[World, random.Random], list[Segment]]] = {
    "s3": s3, "search-r1": search_r1, "deepretrieval": deepretrieval, "ircot": ircot, "search-o1": search_o1,
    "memory": from_memory,
}  # fmt: skip
