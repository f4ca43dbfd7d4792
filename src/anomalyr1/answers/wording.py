"""Model prose as sentences of plain lower-case English cue words, whatever its language, punctuation or markdown.

`conclusions` and `findings` read these. The tables map the phrases that carry a decision in other languages
to their English cue, so that one small grammar serves all. Time is linear; `TAIL_CHARS` bounds it besides.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

TAIL_CHARS = 10_000
"""Only the end of a text is read: a conclusion stands at the end, and no completion budget reaches further
back."""
MAX_SENTENCE_TOKENS = 300
"""A longer sentence is cut, for the readers look around inside a sentence."""


class Token(NamedTuple):
    """One word, number or punctuation mark."""

    word: str
    """Lower-case, translated to its English cue where the table has one."""
    raw: str
    glued: bool
    """No blank between this token and the one before it."""
    line_start: bool


_PHRASES_TABLE = """
    correct answer <- 正确答案 正しい答え 正解 정답
    best <- 最 が最も
    answer <- 答案 答え คำตอบ
    correct is <- 正确的是 正しいのは
    should be <- 应该是 应为 应是
    not choose <- 不应该选 不选
    choose <- 应该选 应该选择 应选择 应选 选择 选
    so choose <- 故选
    option <- 选项 選択肢 선택지
    is not <- 不是 并非 不能是
    , rather than <- 而不是 而非
    is <- 是 为
    think <- 认为
    as <- 作为
    is excluded <- 可以排除 被排除
    exclude <- 排除
    is wrong <- 不正确 不对 不合适 错误 错 は誤り は間違い は正しくない は不正解 は違 가_틀 는_틀
    does not match <- 不符合 不匹配 不符
    is correct <- 正确 合适 が正しい は正しい が正解 が適切 が最も適切 が最適 が答え を選び を選ぶ を選択 가_정답 이_정답 가_맞 이_맞 가_옳
    matches <- 符合 相符 匹配 吻合 が当てはまる が一致
    . therefore <- 因此 所以 综上所述 综上 故 したがって 従って よって ゆえに 따라서 그러므로
    because <- 因为 由于
    if <- 如果 假如 若 もし 만약
    maybe <- 可能 也许 或许 かもしれ
    whether <- 是否
    ? <- 吗 呢 でしょうか ですか
    again <- 重新
    except <- 除了
    all option <- 其他选项 其余选项 其它选项
    but <- 但是 但 然而 不过 しかし
    or <- 或者 还是 或
    and <- 以及 和 与
    . wait , <- 等等
    initially <- 最初 起初 一开始
    no <- 没有 未发现 未见 无
    defect <- 缺陷 瑕疵 欠陥 결함
    anomaly <- 异常
    scratch <- 划痕 傷 긁힘
    crack <- 裂纹 裂缝 ひび 균열
    dent <- 凹痕
    stain <- 污渍 污点
    damage <- 破损 损坏
    intact <- 完好
    normal <- 正常
    there is <- 存在 有
    visible <- 可见
    top left <- 左上
    top right <- 右上
    bottom left <- 左下
    bottom right <- 右下
    left side <- 左侧 左边
    right side <- 右侧 右边
    top <- 顶部 上方
    bottom <- 底部 下方
    center <- 中央 中心 中间
    answer is <- 答えは 回答は 解答は 답은 คำตอบคือ
    correct answer is <- 正解は 정답은
    is not , <- ではなく じゃなく 가_아니라 이_아니라 가_아닌
    is not right . <- ではありません ではない 아닙니다
    . <- です である 입니다 이다
    is absent <- はありません は見られません は見当たりません がない はない なし 없습니다
    is visible <- があります がある が見られ が見え 있습니다
"""
"""Writing without blanks: the English cue, then the phrases that mean it ("_" is a blank)."""

_WORDS_TABLE = """
    answer <- antwort lösung réponse reponse respuesta risposta resposta ответ odpowiedź odpowiedz antwoord svar vastaus cevap
        yanıt jawaban đáp الإجابة الجواب उत्तर απάντηση
    correct <- richtig richtige richtigen korrekt korrekte bonne juste exacte correcte correcta correcto corretta corretto
        correta correto giusta certa правильный правильно верный верно верен верна poprawna prawidłowa juist juiste doğru
        benar đúng الصحيحة सही
    is <- ist lautet est es è é это jest är er adalah là هي है wäre sein
    it <- il isso esto ce
    option <- möglichkeit variante opción opcion opzione opção opcao вариант opcja optie alternativ seçenek pilihan
    not <- nicht pas não nao non не nie niet inte değil bukan không ikke
    no <- kein keine keinen keiner aucun aucune sin sans ningún ninguna senza sem ohne нет без nessun nessuna nenhum nenhuma
        geen
    but <- а sondern aber mais pero sino ma mas но aunque jedoch cependant maar
    rather <- plutôt
    instead <- anstatt statt
    therefore <- daher deshalb somit folglich demnach donc ainsi alors entonces tanto luego quindi dunque pertanto portanto
        logo поэтому следовательно значит итак więc zatem dus därför yani ergo
    that <- dass daß
    because <- weil denn porque perché perche поскольку omdat puisque
    if <- wenn Falls si fosse fossero houver houvesse если jeśli
    wrong <- falsch falsche faux fausse incorrecta incorrecto incorrecte errónea sbagliata sbagliato errada falsa falso
        неверно неверный неверен неправильный błędna fout yanlış
    choose <- wähle choisis elijo escojo scelgo escolho выбираю wybieram kies
    fits <- passt convient encaja trifft подходит pasuje past
    matches <- entspricht correspond corresponde corrisponde соответствует
    and <- und et и en och
    or <- oder ou или eller
    maybe <- vielleicht möglicherweise peut-être quizás quizá forse talvez возможно
    defect <- defekt fehler mangel défaut defauts défauts defecto defectos difetto difetti defeito defeitos дефект дефекты
        defecten
    scratch <- kratzer rayure rayures rasguño arañazo graffio arranhão царапина царапины kras
    crack <- riss risse fissure fissures grieta grietas crepa fissura rachadura трещина трещины barst
    center <- centre central centrally middle midst mitte zentrum centro milieu
    top <- upper uppermost oben obere oberen haut superior
    bottom <- lower lowermost lowest unten untere unteren bas inferior
    left <- links linke linken gauche izquierda izquierdo sinistra esquerda
    right <- rechts rechte rechten droite derecha derecho destra direita
    color <- colour
    gray <- grey
    yes <- ja oui sí sì да はい
    so <- hence thus consequently accordingly
    visible <- sichtbar
"""
"""Writing with blanks: the English cue, then the words that mean it."""


def _latin(word: str) -> str:
    """A word without the accents of Latin letters; other scripts stay as they are."""
    if word.isascii():
        return word
    bare = unicodedata.normalize("NFKD", word).encode("ascii", "ignore").decode()
    return bare if len(bare) == len(word) else word


def _table(text: str) -> dict[str, str]:
    """Each phrase of a table with its cue; an entry may go on over indented lines."""
    result: dict[str, str] = {}
    cue = ""
    for line in text.strip("\n").splitlines():
        head, arrow, rest = line.partition(" <-")
        cue = head.strip() if arrow else cue
        result |= dict.fromkeys((rest if arrow else line).split(), cue)
    return result


_PHRASES = {phrase.replace("_", " "): cue for phrase, cue in _table(_PHRASES_TABLE).items()}
_TO_ENGLISH = _table(_WORDS_TABLE)
_UNACCENTED = {
    bare: cue for word, cue in _TO_ENGLISH.items() if len(word) > 5 and (bare := _latin(word)) != word
}
_PHRASE = re.compile("|".join(sorted(map(re.escape, _PHRASES), key=len, reverse=True)))
_TOKEN = re.compile(r"[^\W\d_]+(?:'(?:t|s|re|ll|ve|d|m)\b)?|\d+|=>|->|\n|[^\w\s]|_")

_LETTER_FORMS = {
    0xFF01: 0x21,
    0x24B6: 0x41,
    0x24D0: 0x61,
    0x249C: 0x61,
    0x1F130: 0x41,
    0x1F150: 0x41,
    0x1F170: 0x41,
}
"""First code point of full-width, circled, bracketed and squared forms, and of the ASCII they stand for."""
_CHARS: dict[int, str] = {
    form + i: chr(first + i)
    for form, first in _LETTER_FORMS.items()
    for i in range(94 if first == 0x21 else 26)
}
_CHARS |= {0x249C + i: f"({chr(0x61 + i)})" for i in range(26)}
_CHARS |= dict(zip(map(ord, "’‘“”„«»「」『』【】〔〕、。｡→⇒−–"), '\'\'"""""""""[][],..→→--', strict=True))
_CHARS |= dict.fromkeys(map(ord, "*`$\u00ad\u200b"), "") | dict.fromkeys(map(ord, "{}\u3000"), " ")
_CHARS |= {ord("\r"): "\n", ord("…"): ". ", ord("—"): " - "}

_ENDS = frozenset(".!?;\n")
_ABBREVIATIONS = frozenset({"vs", "fig", "approx", "nr", "dr", "rev", "ref", "ver", "cat", "pos"})


def word_set(text: str) -> frozenset[str]:
    """The words of a text, for tables that read as prose."""
    return frozenset(text.split())


def plain(text: str) -> str:
    """The end of a text without markdown, LaTeX boxes, full-width forms and phrases of unspaced scripts."""
    text = text[-TAIL_CHARS:].translate(_CHARS)
    for tag in ("<b>", "</b>", "<i>", "</i>", "<strong>", "</strong>", "<u>", "</u>"):
        text = text.replace(tag, "")
    text = (
        text.replace("\\boxed", " answer is ")
        .replace("\\text", " ")
        .replace("\\mathrm", " ")
        .replace("\\mathbf", " ")
    )
    return (
        text
        if text.isascii()
        else _PHRASE.sub(lambda found: f" {_PHRASES[found[0]]} ", unicodedata.normalize("NFC", text))
    )


def tokens(text: str) -> list[Token]:
    """The tokens of a plain text; runs of line breaks are one token."""
    result: list[Token] = []
    end, fresh = 0, True
    for found in _TOKEN.finditer(text):
        raw = found[0]
        if raw == "\n":
            fresh = True
            if result and result[-1].word != "\n":
                result.append(Token("\n", raw, False, False))
        else:
            lower = raw.lower()
            result.append(
                Token(
                    _TO_ENGLISH.get(raw) or _TO_ENGLISH.get(lower) or _UNACCENTED.get(lower) or _latin(lower),
                    raw,
                    found.start() == end and not fresh,
                    fresh,
                )
            )
            fresh = False
        end = found.end()
    return result


def sentences(text: str) -> list[list[Token]]:
    """The sentences of a plain text, each with its own end mark; none is empty."""
    result: list[list[Token]] = []
    current: list[Token] = []
    stream = tokens(text)
    for i, token in enumerate(stream):
        following = stream[i + 1] if i + 1 < len(stream) else None
        if token.word == "\n":
            if not _wrapped(current, following):
                _close(result, current)
                current = []
            continue
        current.append(token)
        ended = token.word in _ENDS and not _inside(current, following)
        if ended or len(current) == MAX_SENTENCE_TOKENS:
            _close(result, current)
            current = []
    _close(result, current)
    return result


@lru_cache(maxsize=2)
def told(text: str) -> tuple[list[Token], ...]:
    """The sentences of any text; kept for the readers that read the same text one after the other, so not to be changed."""
    return tuple(sentences(plain(text)))


@lru_cache(maxsize=1024)
def content(text: str) -> list[str]:
    """The words of an option's text, without punctuation, as `sentences` would have them; not to be changed."""
    return [token.word for token in tokens(plain(text)) if token.word.isalnum() or "'" in token.word[1:]]


def find(words: Sequence[str], part: Sequence[str], start: int = 0) -> int:
    """The first position of a run of words at or after `start`, -1 without."""
    for i in range(start, len(words) - len(part) + 1):
        if words[i] == part[0] and list(words[i : i + len(part)]) == list(part):
            return i
    return -1


def run_end(words: Sequence[str], part: Sequence[str], start: int) -> int | None:
    """The index after a run of words that stands at `start`, punctuation between them passed over; None when it does not stand there."""
    i = start
    for word in part:
        while i > start and i < len(words) and not words[i][0].isalnum():
            i += 1
        if i >= len(words) or words[i] != word:
            return None
        i += 1
    return i if part else None


def _close(result: list[list[Token]], current: list[Token]) -> None:
    if any(token.raw[0].isalnum() for token in current):
        result.append(current)
    elif result and current:
        result[-1].extend(current)


def _wrapped(current: list[Token], following: Token | None) -> bool:
    """Whether a line break only wraps a sentence: nothing ends before it and a lower-case word goes on."""
    if not current or following is None or len(current) < 6:
        return False
    return current[-1].word.isalnum() and following.raw[0].islower() and len(following.raw) > 1


def _inside(current: list[Token], following: Token | None) -> bool:
    """Whether a full stop ends no sentence: decimals, abbreviations, and the label of a list item ("B. Scratch")."""
    if current[-1].word != "." or following is None or following.word == "\n":
        return False
    if following.glued and following.raw[0].isalnum() and len(current) > 1 and current[-1].glued:
        return following.raw[0].islower() or following.raw[0].isdigit()
    before = current[-2].word if len(current) > 1 else ""
    if len(current) > 3 and current[-3].word == "." and before in {"g", "e"}:
        return True
    if before in _ABBREVIATIONS:
        return True
    return len(current) == 2 and (before.isdigit() or len(before) == 1)
