"""What others publish and this project uses: the one list of repositories, files, sizes and places.

Sizes are in bytes, as seen or computed; what the hub lists at the time is what counts.
"""

from dataclasses import dataclass

from .client import Source

GB = 1e9


@dataclass(frozen=True, slots=True)
class Item:
    """Something to fetch; ``size`` (to come) and ``unpacked`` (to keep) are the bytes that are known beforehand.

    ``target``: ``{corpus}`` and ``{questions}`` are the profile's, other names lie beside the corpus; a model's is the
    hub client's cache.
    """

    name: str  # for --only and `unpack.UNPACKERS`; items of one name belong together
    about: str
    sources: tuple[Source, ...]
    target: str = ""
    size: float = 0.0
    unpacked: float = 0.0
    key: str = ""

    @property
    def model(self) -> bool:
        return self.name == "models"


def _questions(set_name: str, folder: str, size: float) -> Item:
    source = Source("RUC-NLPIR/FlashRAG_datasets", (f"{folder}/*.jsonl",))
    target, key = f"{{questions}}/{set_name}", f"questions-{set_name}"
    return Item("questions", f"{set_name}: questions", (source,), target, size, size, key)


_WIKI18 = Source("PeterJinGo/wiki-18-corpus", ("wiki-18.jsonl.gz",))
_WIKI18_E5 = Source("PeterJinGo/wiki-18-e5-index", ("part_aa", "part_ab"))
_MIRAGE = Source(
    "Teddy-XiongGZ/MIRAGE",
    url="https://raw.githubusercontent.com/Teddy-XiongGZ/MIRAGE/"
    "224ebe9a721e1bc525a07b10eceb01ed52df7b29/benchmark.json",
)
_MEDRAG = tuple(Source(f"MedRAG/{name}", ("chunk/*.jsonl",)) for name in ("textbooks", "pubmed", "wikipedia"))
_MEDCORP = "MedCorp: PubMed, medical textbooks, Wikipedia; 53,937,750 snippets"
_AUTHORS = Source("pat-jj/s3_processed_data", ("*.parquet",))
_E5 = "wiki-18 encoded by e5-base-v2: a FAISS flat index, float32"

TABLE: tuple[Item, ...] = (
    Item("corpus", "wiki-18: 21,015,324 passages of Wikipedia", (_WIKI18,), "{corpus}", 5.1 * GB, 14.3 * GB),
    Item("index", _E5, (_WIKI18_E5,), "e5_Flat.index", 64.6 * GB, 64.6 * GB),
    _questions("nq", "nq", 0.012 * GB),
    _questions("triviaqa", "triviaqa", 0.03 * GB),
    _questions("popqa", "popqa", 0.004 * GB),
    _questions("hotpotqa", "hotpotqa", 0.6 * GB),
    _questions("2wiki", "2wikimultihopqa", 0.115 * GB),
    _questions("musique", "musique", 0.25 * GB),
    Item("mirage", "7,663 medical questions, multiple choice", (_MIRAGE,), "mirage", 0.004 * GB, 0.006 * GB),
    Item("medcorp", _MEDCORP, _MEDRAG, "medcorp.jsonl", 118 * GB, 60 * GB),
    Item("s3-data", "the questions as the authors processed them", (_AUTHORS,), "s3_processed", GB, 0.1 * GB),
)

MIRAGE = {"medqa": 1273, "medmcqa": 4183, "pubmedqa": 500, "bioasq": 618, "mmlu": 1089}
"""The benchmark's sets and how many questions each has (Xiong et al., 2024)."""

NAMES = (*dict.fromkeys(item.name for item in TABLE), "models")
