"""The relations of the fictional encyclopedia: how each is stated, asked and used in a chain.

Placeholders: ``{s}`` the subject, ``{o}`` the object. ``phrases`` name the object by way of the
subject ("the director of The Amber Lantern") and nest to make questions of several hops;
``described`` names the *subject* by way of the object ("the film directed by Mira Velt").
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Relation:
    """One relation. ``object`` is an entity type, or ``year``, ``mountain``, ``sea`` (no document of their own)."""

    subject: str
    name: str
    object: str
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    phrases: tuple[str, ...]
    described: tuple[str, ...]

    @property
    def key(self) -> str:
        return f"{self.subject}.{self.name}"


def _r(
    subject: str, name: str, obj: str, statements: str, questions: str, phrases: str, described: str
) -> Relation:
    def split(text: str) -> tuple[str, ...]:
        return tuple(part.strip() for part in text.split("|") if part.strip())

    return Relation(subject, name, obj, split(statements), split(questions), split(phrases), split(described))


RELATIONS = (
    _r("film", "director", "person",
       "{s} is a film directed by {o}. | {s} was made by the director {o}. | {s} has the director {o}.",
       "who directed {s} | who was the director of {s} | whose film is {s}",
       "the director of {s} | the person who directed {s}", "the film directed by {o} | the film that {o} directed"),
    _r("film", "star", "person",
       "{s} is a film starring {o}. | {s} has {o} in the leading role. | {s} has the star {o}.",
       "who starred in {s} | who played the lead in {s} | who was the star of {s}",
       "the star of {s} | the person who starred in {s}", "the film starring {o} | the film in which {o} starred"),
    _r("film", "location", "city",
       "{s} is a film shot in {o}. | {s} was filmed on the streets of {o}. | {s} was made in {o}.",
       "where was {s} filmed | in which city was {s} shot | in what city was {s} filmed",
       "the filming location of {s} | the city where {s} was shot", "the film shot in {o} | the film that was filmed in {o}"),
    _r("film", "release year", "year",
       "{s} is a film from {o}. | {s} was released in {o}. | {s} has the release year {o}.",
       "when was {s} released | in which year did {s} come out | what is the release year of {s}", "", ""),
    _r("book", "author", "person",
       "{s} is a novel by {o}. | {s} was written by {o}. | {s} has the author {o}.",
       "who wrote {s} | who is the author of {s} | whose novel is {s}",
       "the author of {s} | the person who wrote {s}", "the novel by {o} | the novel that {o} wrote"),
    _r("book", "publisher", "company",
       "{s} is a novel published by {o}. | {s} came out with the publisher {o}. | {s} has the publisher {o}.",
       "who published {s} | which company published {s} | which publisher brought out {s}",
       "the publisher of {s} | the company that published {s}", "the novel published by {o}"),
    _r("book", "publication year", "year",
       "{s} is a novel from {o}. | {s} was published in {o}. | {s} has the publication year {o}.",
       "when was {s} published | in which year did {s} appear | what is the publication year of {s}", "", ""),
    _r("band", "singer", "person",
       "{s} is a band with the singer {o}. | {s} has {o} as its singer. | {s} has the voice of {o}.",
       "who sings in {s} | who is the singer of {s} | whose voice leads {s}",
       "the singer of {s} | the person who sings in {s}", "the band with the singer {o} | the band in which {o} sings"),
    _r("band", "home city", "city",
       "{s} is a band from {o}. | {s} was formed in {o}. | {s} has its home in {o}.",
       "where was {s} formed | which city is {s} from | in which city was {s} formed",
       "the home city of {s} | the city where {s} was formed", "the band from {o} | the band formed in {o}"),
    _r("band", "label", "company",
       "{s} is a band signed to {o}. | {s} makes records for {o}. | {s} has the label {o}.",
       "who releases the records of {s} | which label is {s} signed to | which company is the label of {s}",
       "the label of {s} | the company that {s} is signed to", "the band signed to {o}"),
    _r("company", "founder", "person",
       "{s} is a company founded by {o}. | {s} was started by {o}. | {s} has the founder {o}.",
       "who founded {s} | who is the founder of {s} | who started {s}",
       "the founder of {s} | the person who founded {s}", "the company founded by {o} | the company that {o} started"),
    _r("company", "headquarters", "city",
       "{s} is a company based in {o}. | {s} has its headquarters in {o}. | {s} has its home in {o}.",
       "where is {s} based | in which city is {s} based | where are the headquarters of {s}",
       "the headquarters of {s} | the city where {s} is based", "the company based in {o}"),
    _r("company", "founding year", "year",
       "{s} is a company set up in {o}. | {s} was founded in {o}. | {s} has the founding year {o}.",
       "when was {s} founded | in which year was {s} set up | what year did {s} begin", "", ""),
    _r("university", "location", "city",
       "{s} is a school in {o}. | {s} stands in the city of {o}. | {s} is in {o}.",
       "where is {s} | in which city is {s} | what city is {s} in",
       "the location of {s} | the city where {s} stands", "the school in {o} | the school that stands in {o}"),
    _r("university", "rector", "person",
       "{s} is a school led by {o}. | {s} has {o} as its rector. | {s} has the rector {o}.",
       "who leads {s} | who is the rector of {s} | who is the head of {s}",
       "the rector of {s} | the person who leads {s}", "the school led by {o} | the school whose rector is {o}"),
    _r("person", "birthplace", "city",
       "{s} was born in {o}. | {s} is a native of {o}. | {s} came into the world in {o}.",
       "where was {s} born | in which city was {s} born | what is the birthplace of {s}",
       "the birthplace of {s} | the city where {s} was born", "the person born in {o} | the native of {o}"),
    _r("person", "birth year", "year",
       "{s} was born in the year {o}. | {s} has lived since {o}. | {s} has the birth year {o}.",
       "when was {s} born | in which year was {s} born | what is the birth year of {s}", "", ""),
    _r("person", "alma mater", "university",
       "{s} studied at {o}. | {s} is a graduate of {o}. | {s} went to {o}.",
       "where did {s} study | which school did {s} go to | what is the alma mater of {s}",
       "the alma mater of {s} | the school where {s} studied", "the person who studied at {o} | the graduate of {o}"),
    _r("person", "spouse", "person",
       "{s} is married to {o}. | {s} lives with the spouse {o}. | {s} has the spouse {o}.",
       "who is {s} married to | who is the spouse of {s} | whom did {s} marry",
       "the spouse of {s} | the person married to {s}", "the person married to {o} | the spouse of {o}"),
    _r("person", "award", "prize",
       "{s} won the {o}. | {s} was honoured with the {o}. | {s} has won the {o}.",
       "which prize did {s} win | what was {s} honoured with | what prize went to {s}",
       "the prize won by {s} | the prize that {s} won", "the person who won the {o} | the winner of the {o}"),
    _r("city", "river", "river",
       "{s} is a city on the {o}. | {s} lies by the {o}. | {s} is on the {o}.",
       "which river runs through {s} | which river does {s} lie on | what river is {s} on",
       "the river of {s} | the river that runs through {s}", "the city on the {o} | the city that lies by the {o}"),
    _r("city", "mayor", "person",
       "{s} is a city with the mayor {o}. | {s} is governed by {o}. | {s} has the mayor {o}.",
       "who is the mayor of {s} | who governs {s} | who runs the city of {s}",
       "the mayor of {s} | the person who governs {s}", "the city governed by {o} | the city whose mayor is {o}"),
    _r("river", "source", "mountain",
       "{s} rises on {o}. | {s} has its source at {o}. | {s} has the source {o}.",
       "where does {s} rise | what is the source of {s} | on which mountain does {s} rise",
       "", "the river that rises on {o}"),
    _r("river", "mouth", "sea",
       "{s} flows into the {o}. | {s} ends in the {o}. | {s} runs into the {o}.",
       "which sea does {s} flow into | where does {s} end | what sea takes the waters of {s}",
       "", "the river that flows into the {o}"),
    _r("prize", "first winner", "person",
       "{s} is a prize first won by {o}. | {s} had {o} as its first winner. | {s} went first to {o}.",
       "who first won the {s} | who was the first winner of the {s} | who won the first {s}",
       "the first winner of the {s} | the person who first won the {s}", "the prize first won by {o}"),
    _r("prize", "sponsor", "company",
       "{s} is a prize paid for by {o}. | {s} is given every year by {o}. | {s} has the sponsor {o}.",
       "who pays for the {s} | which company gives the {s} | who is the sponsor of the {s}",
       "the sponsor of the {s} | the company that pays for the {s}", "the prize paid for by {o}"),
)  # fmt: skip

HERBAL = (
    _r("herb", "treats", "ailment",
       "{s} is used against {o}. | {s} brings relief from {o}. | {s} treats {o}.",
       "which ailment is {s} used against | what does {s} treat | what does {s} bring relief from", "", ""),
    _r("herb", "contains", "compound",
       "{s} contains the compound {o}. | {s} is rich in {o}. | {s} has the compound {o}.",
       "which compound does {s} contain | what compound is found in {s} | what is {s} rich in", "", ""),
    _r("herb", "worsens", "ailment",
       "{s} must be avoided with {o}. | {s} is dangerous for people with {o}. | {s} is dangerous with {o}.",
       "with which ailment must {s} be avoided | who must not take {s} | for which ailment is {s} dangerous", "", ""),
    _r("herb", "origin", "city",
       "{s} is grown around {o}. | {s} comes from the hills of {o}. | {s} has its origin in {o}.",
       "where is {s} grown | where does {s} come from | near which city do farmers grow {s}", "", ""),
)  # fmt: skip

BY_SUBJECT: dict[str, tuple[Relation, ...]] = {}
for _relation in RELATIONS + HERBAL:
    BY_SUBJECT[_relation.subject] = (*BY_SUBJECT.get(_relation.subject, ()), _relation)
BY_KEY = {relation.key: relation for relation in RELATIONS + HERBAL}
