"""What others publish and this project uses: the one list of repositories, files, sizes and places.

Sizes are in bytes, as seen or computed; what the hub lists at the time is what counts.
"""

from __future__ import annotations

from dataclasses import dataclass

from .client import Source

GB = 1e9
_FLASHRAG = "RUC-NLPIR/FlashRAG_datasets"


@dataclass(frozen=True, slots=True)
class Item:
    """Something to fetch.

    ``target``: ``{corpus}`` and ``{questions}`` are the profile's, other names lie beside the corpus; a model's is the
    hub client's cache. ``how`` names the unpacker. ``size`` and ``unpacked`` (bytes) are what is known beforehand.
    """

    name: str  # for --only; items of one name belong together
    about: str
    sources: tuple[Source, ...]
    target: str = ""
    how: str = "cache"
    size: float = 0.0
    unpacked: float = 0.0
    key: str = ""

    @property
    def model(self) -> bool:
        return self.how == "cache"


def _questions(set_name: str, folder: str, size: float) -> Item:
    source = Source(_FLASHRAG, (f"{folder}/*.jsonl",))
    target = f"{{questions}}/{set_name}"
    return Item(
        "questions",
        f"{set_name}: questions",
        (source,),
        target,
        "questions",
        size,
        size,
        f"questions-{set_name}",
    )


TABLE: tuple[Item, ...] = (
    Item(
        "corpus",
        "wiki-18: 21,015,324 passages of Wikipedia",
        (Source("PeterJinGo/wiki-18-corpus", ("wiki-18.jsonl.gz",)),),
        "{corpus}",
        "gunzip",
        5.1 * GB,
        14.3 * GB,
    ),
    Item(
        "index",
        "wiki-18 encoded by e5-base-v2: a FAISS flat index, float32",
        (Source("PeterJinGo/wiki-18-e5-index", ("part_aa", "part_ab")),),
        "e5_Flat.index",
        "join",
        64.6 * GB,
        64.6 * GB,
    ),
    _questions("nq", "nq", 0.012 * GB),
    _questions("triviaqa", "triviaqa", 0.03 * GB),
    _questions("popqa", "popqa", 0.004 * GB),
    _questions("hotpotqa", "hotpotqa", 0.6 * GB),
    _questions("2wiki", "2wikimultihopqa", 0.115 * GB),
    _questions("musique", "musique", 0.25 * GB),
    Item(
        "mirage",
        "7,663 medical questions, multiple choice",
        (
            Source(
                "Teddy-XiongGZ/MIRAGE",
                url="https://raw.githubusercontent.com/Teddy-XiongGZ/MIRAGE/"
                "224ebe9a721e1bc525a07b10eceb01ed52df7b29/benchmark.json",
            ),
        ),
        "mirage",
        "mirage",
        0.004 * GB,
        0.006 * GB,
    ),
    Item(
        "medcorp",
        "MedCorp: PubMed, medical textbooks, Wikipedia; 53,937,750 snippets",
        tuple(Source(f"MedRAG/{name}", ("chunk/*.jsonl",)) for name in ("textbooks", "pubmed", "wikipedia")),
        "medcorp.jsonl",
        "medcorp",
        118 * GB,
        60 * GB,
    ),
    Item(
        "s3-data",
        "the questions as the authors processed them",
        (Source("pat-jj/s3_processed_data", ("*.parquet",)),),
        "s3_processed",
        "processed",
        1.0 * GB,
        0.1 * GB,
    ),
)

MIRAGE = {"medqa": 1273, "medmcqa": 4183, "pubmedqa": 500, "bioasq": 618, "mmlu": 1089}
"""The benchmark's sets and how many questions each has (Xiong et al., 2024)."""

NAMES = (*dict.fromkeys(item.name for item in TABLE), "models")
