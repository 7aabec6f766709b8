"""Utterances of a split and their waveforms: layouts, faults, resampling, shares."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from s3prl_mi.core.config import DataConfig
from s3prl_mi.core.errors import MIError
from s3prl_mi.core.types import SAMPLE_RATE
from s3prl_mi.data.audio import (
    AudioError,
    SkipCounter,
    content_hash,
    read_header,
    read_waveform,
)
from s3prl_mi.data.splits import check_audio, refuse_shared_audio
from s3prl_mi.data.utterances import Utterance, list_utterances, spread
from tests.helpers.paths import MINI


def tone(seconds=0.1, rate=SAMPLE_RATE, hertz=440.0, channels=1):
    wave = 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)
    return np.repeat(wave[:, None], channels, axis=1).astype(np.float32)


def write(path, samples=None, rate=SAMPLE_RATE, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(rate=rate) if samples is None else samples, rate, **options)
    return path


def utterance(path, id=None, speaker=None):
    return Utterance(id or path.stem, path, "dev", speaker, None)


def libri(root, split="dev", speakers=("20", "3"), per_speaker=2):
    for speaker in speakers:
        for i in range(per_speaker):
            write(root / split / speaker / "7" / f"{speaker}-7-{i:04d}.flac")
    return DataConfig(libri_root=str(root))


class TestLibriSpeech:
    def test_sorted_by_id_with_speakers(self, tmp_path):
        data = libri(tmp_path)
        write(tmp_path / "dev" / "3" / "7" / "3-7-0002.WAV", format="WAV")
        (tmp_path / "dev" / "3" / "7" / "3-7.trans.txt").write_text("3-7-0000 HELLO")
        (tmp_path / "dev" / "3" / "7" / "._3-7-0000.flac").write_bytes(b"macOS")
        found = list_utterances(data, "dev")
        assert [u.id for u in found] == ["20-7-0000", "20-7-0001", "3-7-0000", "3-7-0001", "3-7-0002"]
        assert [u.speaker for u in found] == ["20", "20", "3", "3", "3"]
        assert {u.split for u in found} == {"dev"}
        assert all(u.path.is_file() and u.alignment is None for u in found)

    def test_missing_split_names_those_there(self, tmp_path):
        data = libri(tmp_path, "dev-other")
        with pytest.raises(MIError, match=r"'dev-othr'.*It holds: dev-other.*Did you mean 'dev-other'"):
            list_utterances(data, "dev-othr")

    def test_root_one_level_too_high(self, tmp_path):
        libri(tmp_path / "LibriSpeech", "dev-other")
        with pytest.raises(MIError, match=r"is in .*LibriSpeech: make that the libri_root"):
            list_utterances(DataConfig(libri_root=str(tmp_path)), "dev-other")

    def test_no_audio(self, tmp_path):
        (tmp_path / "dev" / "3" / "7").mkdir(parents=True)
        with pytest.raises(MIError, match=r"no \.flac or \.wav file"):
            list_utterances(DataConfig(libri_root=str(tmp_path)), "dev")

    def test_audio_in_another_layout(self, tmp_path):
        write(tmp_path / "dev" / "a.wav")
        with pytest.raises(MIError, match=r"a\.wav\), but not in LibriSpeech's layout"):
            list_utterances(DataConfig(libri_root=str(tmp_path)), "dev")

    def test_same_id_twice(self, tmp_path):
        data = libri(tmp_path)
        write(tmp_path / "dev" / "3" / "7" / "3-7-0000.wav")
        with pytest.raises(MIError, match=r"'3-7-0000' occurs twice.*3-7-0000\.flac.*3-7-0000\.wav"):
            list_utterances(data, "dev")

    @pytest.mark.shared
    @pytest.mark.skipif(not MINI.is_dir(), reason="no ../shared")
    def test_real_corpus(self):
        data = DataConfig(libri_root=str(MINI))
        found = [u for split in ("dev-other", "test-other") for u in list_utterances(data, split)]
        assert len(found) == 100
        assert len({u.speaker for u in found}) == 10
        checked = check_audio(found, 0.0, "both")
        assert checked.seconds == pytest.approx(12.8 * 60, abs=6)
        assert checked.notes() == []
        wave = read_waveform(found[0])
        assert len(wave) == checked.n_samples[found[0].id]
        assert 0.01 < np.abs(wave).max() <= 1


class TestManifest:
    def make(self, tmp_path, text, **options):
        for name in ("a", "b", "c"):
            write(tmp_path / "wavs" / f"{name}.wav")
        path = tmp_path / "list.tsv"
        path.write_bytes(text.encode(options.pop("encoding", "utf-8")))
        return DataConfig(manifest=str(path), fit_splits=("fit",), eval_splits=("eval",), **options)

    def test_tsv_with_all_columns(self, tmp_path):
        data = self.make(
            tmp_path,
            "split\taudio\tid\tspeaker\talignment\r\n"
            "fit\twavs/b.wav\tB\tkim\tal/b.TextGrid\r\n"
            "\r\n"
            "fit\twavs/a.wav\t\t\t\r\n"
            "eval\twavs/c.wav\tC\t\t\r\n",
            encoding="utf-8-sig",
        )
        assert list_utterances(data, "fit") == [
            Utterance("B", tmp_path / "wavs" / "b.wav", "fit", "kim", tmp_path / "al" / "b.TextGrid"),
            Utterance("a", tmp_path / "wavs" / "a.wav", "fit", None, None),
        ]
        assert [u.id for u in list_utterances(data, "eval")] == ["C"]

    def test_csv_and_absolute_paths(self, tmp_path):
        path = tmp_path / "wavs" / "a.wav"
        data = self.make(tmp_path, f'Audio,Split\n"{path}",fit\nwavs/b.wav,eval\n')
        assert [u.path for u in list_utterances(data, "fit")] == [path]

    def test_one_split_needs_no_column(self, tmp_path):
        text = "audio\nwavs/a.wav\nwavs/b.wav\n"
        data = self.make(tmp_path, text)
        with pytest.raises(MIError, match=r"no column 'split'.*2 splits are named \(eval, fit\)"):
            list_utterances(data, "fit")
        alone = DataConfig(manifest=data.manifest, fit_splits=("fit",), eval_splits=("fit",))
        assert [u.id for u in list_utterances(alone, "fit")] == ["a", "b"]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("split\taudoi\nfit\twavs/a.wav\n", r"unknown column 'audoi'.*Did you mean 'audio'"),
            ("split\tid\nfit\ta\n", r"no column 'audio'"),
            ("split\taudio\taudio\nfit\tx\ty\n", r"column 'audio' occurs twice"),
            (
                "split\taudio\nfit\twavs/a.wav\nfit\twavs/nope.wav\n",
                r"line 3: no such audio file: .*nope\.wav",
            ),
            ("split\taudio\nfit\twavs/a.wav\textra\n", r"line 2: expected 2 fields .*found 3"),
            ("split\taudio\nfit\t\n", r"line 2: column 'audio' is empty"),
            (
                "split\taudio\tid\nfit\twavs/a.wav\tx\nfit\twavs/b.wav\tx\n",
                r"line 3: .*'x' was used in line 2",
            ),
            ("split\taudio\nfti\twavs/a.wav\n", r"split 'fit': no line.*Did you mean 'fti'"),
            ("split\taudio\n", r"no utterance in it"),
            ("", r"no utterance in it"),
        ],
    )
    def test_faults(self, tmp_path, text, message):
        with pytest.raises(MIError, match=message):
            list_utterances(self.make(tmp_path, text), "fit")

    def test_as_excel_writes_unicode_text(self, tmp_path):
        data = self.make(tmp_path, "split\taudio\tid\r\nfit\twavs/a.wav\té\r\n", encoding="utf-16")
        assert [u.id for u in list_utterances(data, "fit")] == ["é"]

    def test_not_text(self, tmp_path):
        with pytest.raises(MIError, match="cannot be read as UTF-8"):
            list_utterances(self.make(tmp_path, "audio\té\n", encoding="latin-1"), "fit")


class TestSpread:
    def make(self, sizes):
        return [
            Utterance(f"{speaker}-{i:04d}", Path("x"), "dev", str(speaker), None)
            for speaker, size in enumerate(sizes)
            for i in range(size)
        ]

    @pytest.mark.parametrize("count", range(1, 42))
    def test_size_order_and_speakers(self, count):
        every = self.make([1, 30, 2, 8])
        taken = spread(every, count)
        assert len(taken) == min(count, 41)
        assert taken == [u for u in every if u in taken]
        assert len({u.speaker for u in taken}) == min(count, 4)

    def test_in_proportion_and_even(self):
        taken = spread(self.make([10, 30]), 8)
        assert [u.id for u in taken] == [f"0-{i:04d}" for i in (2, 7)] + [f"1-{i:04d}" for i in (2, 7, 12, 17, 22, 27)]

    def test_through_the_config(self, tmp_path):
        libri(tmp_path)
        data = DataConfig(libri_root=str(tmp_path), max_utterances=2)
        assert [u.speaker for u in list_utterances(data, "dev")] == ["20", "3"]
        with pytest.raises(MIError, match="max_utterances: must be at least 1, found 0"):
            list_utterances(DataConfig(libri_root=str(tmp_path), max_utterances=0), "dev")


class TestWaveform:
    def test_exact_at_16_khz(self, tmp_path):
        samples = np.array([0.0, 0.5, -0.25, -1.0] * 200, np.float32)
        for name in ("a.wav", "a.flac"):
            wave = read_waveform(utterance(write(tmp_path / name, samples)))
            assert wave.dtype == np.float32
            assert wave.flags["C_CONTIGUOUS"]
            np.testing.assert_array_equal(wave, samples)

    def test_channels_are_averaged(self, tmp_path):
        stereo = np.stack([np.full(800, 0.5), np.full(800, -0.25)], axis=1)
        stereo[-1] = 0.25
        wave = read_waveform(utterance(write(tmp_path / "a.wav", stereo)))
        np.testing.assert_allclose(wave, stereo.mean(1), atol=1e-6)

    @pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000])
    def test_resampled_tone_stays_the_tone(self, tmp_path, rate):
        path = write(tmp_path / "a.wav", tone(1, rate), rate, subtype="FLOAT")
        wave = read_waveform(utterance(path))
        inner = slice(400, -400)
        np.testing.assert_allclose(wave[inner], tone(1)[:, 0][inner], atol=2e-3)

    def test_digital_silence_is_refused(self, tmp_path):
        path = write(tmp_path / "a.wav", np.full(1600, 0.25))
        with pytest.raises(AudioError, match=r"all 1600 samples are 0\.25"):
            read_waveform(utterance(path))

    @pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000, 96000])
    @pytest.mark.parametrize("n", [3001, 4567, 8000])
    def test_probe_foretells_the_length(self, tmp_path, rate, n):
        path = write(tmp_path / "a.wav", np.resize([[0.1, 0.1], [-0.1, -0.1]], (n, 2)), rate)
        info = read_header(utterance(path))
        assert info == (len(read_waveform(utterance(path))), rate, 2)

    def test_flac_of_unstated_length(self, tmp_path):
        path = write(tmp_path / "a.flac", tone(0.3))
        data = bytearray(path.read_bytes())
        data[21] &= 0xF0  # the 36 bits of the number of samples in STREAMINFO, 0 for unknown
        data[22:26] = bytes(4)
        path.write_bytes(data)
        assert read_header(utterance(path)).n_samples == 4800
        np.testing.assert_allclose(read_waveform(utterance(path)), tone(0.3)[:, 0], atol=1e-4)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (None, r"bad\.wav: no such file"),
            (b"", r"bad\.wav: empty \(0 bytes\)"),
            (b"not audio at all", r"bad\.wav: not readable as audio"),
        ],
    )
    def test_not_audio(self, tmp_path, content, message):
        path = tmp_path / "bad.wav"
        if content is not None:
            path.write_bytes(content)
        for read in (read_header, read_waveform):
            with pytest.raises(AudioError, match=message):
                read(utterance(path))

    def test_folder(self, tmp_path):
        with pytest.raises(AudioError, match="not readable as audio"):
            read_waveform(utterance(tmp_path))

    @pytest.mark.parametrize(("n", "message"), [(0, "empty, at least 25 ms"), (399, "only 24.9 ms long")])
    def test_too_short(self, tmp_path, n, message):
        path = write(tmp_path / "a.wav", np.resize([0.1, -0.1], n))
        for read in (read_header, read_waveform):
            with pytest.raises(AudioError, match=message):
                read(utterance(path))

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_not_finite(self, tmp_path, value):
        samples = tone()
        samples[[3, 5]] = value
        path = write(tmp_path / "a.wav", samples, subtype="FLOAT")
        with pytest.raises(AudioError, match=r"a\.wav: 2 of 1600 samples are NaN or infinite"):
            read_waveform(utterance(path))

    def test_cut_short_and_corrupt_bodies(self, tmp_path):
        noise = np.random.default_rng(0).uniform(-0.5, 0.5, 16000)
        whole = write(tmp_path / "a.flac", noise).read_bytes()
        half = len(whole) // 2
        for name, content in [
            ("cut", whole[:half]),
            ("hurt", whole[:half] + bytes(300) + whole[half + 300 :]),
        ]:
            path = tmp_path / f"{name}.flac"
            path.write_bytes(content)
            assert read_header(utterance(path)).n_samples == 16000  # the header alone does not tell
            with pytest.raises(AudioError, match=rf"{name}\.flac: "):
                read_waveform(utterance(path))


class TestShares:
    def test_check_audio(self, tmp_path):
        good = [
            write(tmp_path / "a.wav"),
            write(tmp_path / "b.wav", tone(0.2, 44100, channels=2), 44100),
            write(tmp_path / "c.flac", tone(0.2, 44100), 44100),
        ]
        (tmp_path / "d.wav").touch()
        every = [utterance(p) for p in [*good, tmp_path / "d.wav"]]
        checked = check_audio(every, 0.25, "dev")
        assert checked.utterances == every[:3]
        assert [id for id, _ in checked.unreadable] == ["d"]
        assert checked.n_samples == {"a": 1600, "b": 3200, "c": 3200}
        assert checked.seconds == pytest.approx(0.5)
        assert [(h.native_rate, h.channels) for h in checked.headers.values()] == [(16000, 1), (44100, 2), (44100, 1)]
        resampled, mixed, skipped = checked.notes()
        assert resampled == "2 files resampled from 44100 Hz to 16000 Hz."
        assert mixed.startswith("1 files with several channels")
        assert "d.wav: empty" in skipped
        with pytest.raises(MIError, match=r"1 of 4 audio files.*0\.24.*max_unreadable.*d\.wav: empty"):
            check_audio(every, 0.24, "dev")

    def test_nothing_left_is_refused_at_any_share(self, tmp_path):
        (tmp_path / "d.wav").touch()
        with pytest.raises(MIError, match=r"none of its 1 audio files can be read: .*d\.wav: empty"):
            check_audio([utterance(tmp_path / "d.wav")], 1.0, "dev")

    def test_skip_counter_goes_on_from_the_headers(self):
        counter = SkipCounter(100, 0.02, "dev", skipped=[("a", "a.wav: empty")])
        counter.skip("b", "b.wav: cut short")
        assert len(counter.skipped) == 2
        with pytest.raises(MIError, match=r"split 'dev': 3 of 100 .*a\.wav: empty; b\.wav: cut short; c\.wav: bad"):
            counter.skip("c", "c.wav: bad")


def test_content_hash(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 700_000)
    (tmp_path / "b").write_bytes(b"abc" * 700_000)
    (tmp_path / "c").write_bytes(b"abc" * 699_999 + b"abd")
    first = content_hash(tmp_path / "a")
    assert len(first) == 32
    assert first == content_hash(str(tmp_path / "b"))
    assert first != content_hash(tmp_path / "c")
    (tmp_path / "empty").touch()
    # b2sum --length 128 of nothing
    assert content_hash(tmp_path / "empty") == "cae66941d9efbd404e4d88758ea67670"
    with pytest.raises(AudioError, match="no such file"):
        content_hash(tmp_path / "nope")


class TestSharedAudio:
    """The same speech on both sides, by content."""

    NOISE = np.random.default_rng(0).integers(-9000, 9000, (3, 2000)).astype(np.int16)

    def split(self, folder, name, suffix=".flac", offset=0):
        for i, samples in enumerate(self.NOISE, start=offset):
            write(folder / f"{name}-{i}{suffix}", samples, subtype="PCM_16")
        return check_audio([utterance(p) for p in sorted(folder.glob(f"{name}-*"))], 0.0, name)

    def test_other_speech_of_the_same_lengths_passes(self, tmp_path):
        fit = self.split(tmp_path, "fit")
        for i in range(3):
            write(tmp_path / f"eval-{i}.flac", self.NOISE[i][::-1].copy())
        refuse_shared_audio([fit], [check_audio([utterance(p) for p in tmp_path.glob("eval-*")], 0.0, "eval")])

    @pytest.mark.parametrize("suffix", [".flac", ".wav"])
    def test_copies_under_other_ids_and_in_another_format(self, tmp_path, suffix):
        fit, scored = self.split(tmp_path, "fit"), self.split(tmp_path, "eval", suffix, offset=7)
        with pytest.raises(MIError, match=r"fit-0\.flac .*eval-7.*2 more pairs.*@1/2"):
            refuse_shared_audio([fit], [scored])

    def test_a_link(self, tmp_path):
        fit = self.split(tmp_path, "fit")
        (tmp_path / "eval.flac").symlink_to(tmp_path / "fit-2.flac")
        scored = check_audio([utterance(tmp_path / "eval.flac")], 0.0, "eval")
        with pytest.raises(MIError, match=r"fit-2\.flac .*eval\.flac .*are one recording\. "):
            refuse_shared_audio([fit], [scored])

    def test_a_damaged_file_is_not_compared(self, tmp_path):
        fit, scored = self.split(tmp_path, "fit"), self.split(tmp_path, "eval", ".wav")
        for path in (tmp_path / f"eval-{i}.wav" for i in range(3)):
            path.write_bytes(path.read_bytes()[:-1000])
        refuse_shared_audio([fit], [scored])
