"""The relations of the fictional encyclopedia: how each is stated, asked and used in a chain."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Relation:
    """One relation; in its texts ``{s}`` is the subject and ``{o}`` the object.

    ``object`` is an entity type, or a kind of value without a document of its own (``year``, ``mountain``, ``sea``).
    ``phrases`` name the object by way of the subject ("the director of The Amber Lantern") and nest to make questions
    of several hops; ``described`` names the *subject* by way of the object ("the film directed by Mira Velt").
    """

    subject: str
    name: str
    object: str
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    phrases: tuple[str, ...]
    described: tuple[str, ...]


def the(name: str, kind: str) -> str:
    """The name of an entity of type ``kind`` with its article, where it has one."""
    return f"the {name}" if kind in ("river", "prize") else name


def _relations(table: str) -> tuple[Relation, ...]:
    """A relation's parts: subject, name, object, two statements, three questions, phrases, descriptions.

    A statement in the words of its name ("The director of {s} is {o}.") comes before the two.
    """
    relations = []
    for block in re.split(r"\n(?=\S)", table.strip()):
        subject, name, value, *texts = re.split(r"\s*[|\n]\s*", block)
        statements = (f"The {name} of {the('{s}', subject)} is {{o}}.", *texts[:2])
        phrases = tuple(text for text in texts[5:] if "{s}" in text)
        described = tuple(text for text in texts[5:] if "{o}" in text)
        relations.append(Relation(subject, name, value, statements, tuple(texts[2:5]), phrases, described))
    return tuple(relations)


RELATIONS = _relations("""
film | director | person | The person who directed {s} is {o}. | {s} was directed by {o}.
  who directed {s} | who was the director of {s} | whose film is {s}
  the director of {s} | the person who directed {s} | the film directed by {o} | the film that {o} directed
film | star | person | The lead in {s} was played by {o}. | {s} stars {o}.
  who starred in {s} | who played the lead in {s} | who was the star of {s}
  the star of {s} | the person who starred in {s} | the film starring {o} | the film in which {o} starred
film | location | city | The city where {s} was shot is {o}. | {s} was filmed in {o}.
  where was {s} filmed | in which city was {s} shot | in what city was {s} filmed
  the filming location of {s} | the city where {s} was shot | the film shot in {o} | the film that was filmed in {o}
film | release year | year | The year when {s} came out is {o}. | {s} was released in {o}.
  when was {s} released | in which year did {s} come out | what is the release year of {s}
book | author | person | The person who wrote {s} is {o}. | {s} was written by {o}.
  who wrote {s} | who is the author of {s} | whose novel is {s}
  the author of {s} | the person who wrote {s} | the novel by {o} | the novel that {o} wrote
book | publisher | company | The company that brought out {s} is {o}. | {s} was published by {o}.
  who published {s} | which company published {s} | which publisher brought out {s}
  the publisher of {s} | the company that published {s} | the novel published by {o}
book | publication year | year | The year when {s} appeared is {o}. | {s} was published in {o}.
  when was {s} published | in which year did {s} appear | what is the publication year of {s}
band | singer | person | The voice that leads {s} is {o}. | {s} sings with {o}.
  who sings in {s} | who is the singer of {s} | whose voice leads {s}
  the singer of {s} | the person who sings in {s} | the band with the singer {o} | the band in which {o} sings
band | home city | city | The city where {s} was formed is {o}. | {s} was formed in {o}.
  where was {s} formed | which city is {s} from | in which city was {s} formed
  the home city of {s} | the city where {s} was formed | the band from {o} | the band formed in {o}
band | label | company | The company that releases {s} is {o}. | {s} is signed to {o}.
  who releases the records of {s} | which label is {s} signed to | which company is the label of {s}
  the label of {s} | the company that {s} is signed to | the band signed to {o}
company | founder | person | The person who started {s} is {o}. | {s} was founded by {o}.
  who founded {s} | who is the founder of {s} | who started {s}
  the founder of {s} | the person who founded {s} | the company founded by {o} | the company that {o} started
company | headquarters | city | The city that is home to {s} is {o}. | {s} is based in {o}.
  where is {s} based | in which city is {s} based | where are the headquarters of {s}
  the headquarters of {s} | the city where {s} is based | the company based in {o}
company | founding year | year | The year when {s} began is {o}. | {s} was set up in {o}.
  when was {s} founded | in which year was {s} set up | what year did {s} begin
university | location | city | The city where {s} stands is {o}. | {s} is in {o}.
  where is {s} | in which city is {s} | what city is {s} in
  the location of {s} | the city where {s} stands | the school in {o} | the school that stands in {o}
university | rector | person | The person who leads {s} is {o}. | {s} is run by {o}.
  who leads {s} | who is the rector of {s} | who is the head of {s}
  the rector of {s} | the person who leads {s} | the school led by {o} | the school whose rector is {o}
person | birthplace | city | The city where {s} was born is {o}. | {s} was born in {o}.
  where was {s} born | in which city was {s} born | what is the birthplace of {s}
  the birthplace of {s} | the city where {s} was born | the person born in {o} | the native of {o}
person | birth year | year | The year when {s} was born is {o}. | {s} has lived since {o}.
  when was {s} born | in which year was {s} born | what is the birth year of {s}
person | alma mater | university | The school where {s} studied is {o}. | {s} studied at {o}.
  where did {s} study | which school did {s} go to | what is the alma mater of {s}
  the alma mater of {s} | the school where {s} studied | the person who studied at {o} | the graduate of {o}
person | spouse | person | The person who married {s} is {o}. | {s} is married to {o}.
  who is {s} married to | who is the spouse of {s} | whom did {s} marry
  the spouse of {s} | the person married to {s} | the person married to {o} | the spouse of {o}
person | award | prize | The prize that {s} won is {o}. | {s} won the {o}.
  which prize did {s} win | what was {s} honoured with | what prize went to {s}
  the prize won by {s} | the prize that {s} won | the person who won the {o} | the winner of the {o}
city | river | river | The river that runs through {s} is {o}. | {s} lies on the {o}.
  which river runs through {s} | which river does {s} lie on | what river is {s} on
  the river of {s} | the river that runs through {s} | the city on the {o} | the city that lies by the {o}
city | mayor | person | The person who governs {s} is {o}. | {s} is governed by {o}.
  who is the mayor of {s} | who governs {s} | who runs the city of {s}
  the mayor of {s} | the person who governs {s} | the city governed by {o} | the city whose mayor is {o}
river | source | mountain | The mountain that feeds the {s} is {o}. | {s} rises on {o}.
  where does {s} rise | what is the source of {s} | on which mountain does {s} rise
  the river that rises on {o}
river | mouth | sea | The sea that takes the {s} is {o}. | {s} flows into the {o}.
  which sea does {s} flow into | where does {s} end | what sea takes the waters of {s}
  the river that flows into the {o}
prize | first winner | person | The person who first won the {s} is {o}. | {s} went first to {o}.
  who first won the {s} | who was the first winner of the {s} | who won the first {s}
  the first winner of the {s} | the person who first won the {s} | the prize first won by {o}
prize | sponsor | company | The company that gives the {s} is {o}. | {s} is paid for by {o}.
  who pays for the {s} | which company gives the {s} | who is the sponsor of the {s}
  the sponsor of the {s} | the company that pays for the {s} | the prize paid for by {o}
""")

HERBAL = _relations("""
herb | use | ailment | The ailment that {s} relieves is {o}. | {s} treats {o}.
  which ailment is {s} used against | what does {s} treat | what does {s} bring relief from
herb | compound | compound | The compound found in {s} is {o}. | {s} contains {o}.
  which compound does {s} contain | what compound is found in {s} | what is {s} rich in
herb | danger | ailment | The ailment made worse by {s} is {o}. | {s} worsens {o}.
  with which ailment must {s} be avoided | who must not take {s} | for which ailment is {s} dangerous
herb | origin | city | The city where {s} is grown is {o}. | {s} comes from {o}.
  where is {s} grown | where does {s} come from | near which city do farmers grow {s}
""")

BY_SUBJECT: dict[str, tuple[Relation, ...]] = {}
for _relation in RELATIONS + HERBAL:
    BY_SUBJECT[_relation.subject] = (*BY_SUBJECT.get(_relation.subject, ()), _relation)
