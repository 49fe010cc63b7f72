"""Specs that are wrong, each with its problems as they are said."""

from __future__ import annotations

import pytest

BAD = [
    pytest.param(
        "featuremap: [1, 2, 2]", [r"unknown key 'featuremap', .*:1", r"neither.*:1"], id="typo"
    ),
    pytest.param(
        "{}", [r"the spec has neither `feature_map: \[C, H, W\]` nor `heads` .*:1"], id="no-keys"
    ),
    pytest.param("- 1", [r"not a mapping of keys to values .*:1"], id="list"),
    pytest.param("text", [r"not a mapping of keys to values .*:1"], id="text"),
    pytest.param("null", [r"not a mapping of keys to values .*:1"], id="null"),
    pytest.param("feature_map: null", [r"feature_map: .* found None .*:1"], id="map-null"),
    pytest.param(
        "feature_map: [1]", [r"feature_map: has too few entries, found \[1\] .*:1"], id="map-of-1"
    ),
    pytest.param(
        "feature_map: [1, 2, 3, 4, 5]", [r"feature_map: .* at most 4 .*:1"], id="map-of-5"
    ),
    pytest.param(
        "feature_map: []", [r"feature_map: has too few entries, found .*:1"], id="map-empty"
    ),
    pytest.param(
        "feature_map: 512:7:7",
        [r"feature_map: .* list in brackets, found '512:7:7' .*:1"],
        id="map-text",
    ),
    pytest.param(
        "feature_map: [1, 2.0, 2]", [r"feature_map\.1: .* integer, found 2\.0 .*:1"], id="float"
    ),
    pytest.param(
        "feature_map: [1, '2', 2]", [r"feature_map\.1: .* integer, found '2' .*:1"], id="text-size"
    ),
    pytest.param(
        "feature_map: [1, true, 2]", [r"feature_map\.1: .* integer, found True .*:1"], id="bool"
    ),
    pytest.param(
        "feature_map: [1, null, 2]",
        [r"feature_map\.1: .* integer, found None .*:1"],
        id="size-null",
    ),
    pytest.param(
        "feature_map:\n- 0\n- -7\n- 7",
        [r"feature_map\.0: .* 1, found 0 .*:2", r"feature_map\.1: .* 1, found -7 .*:3"],
        id="zero-and-negative",
    ),
    pytest.param(
        "feature_map: [1, 2147483648, 2]",
        [r"feature_map\.1: .* 2147483647, found 2147483648"],
        id="huge",
    ),
    pytest.param(
        "feature_map: [1, 99999999999999999999999, 2]",
        [r"feature_map\.1: .*:1"],
        id="beyond-64-bits",
    ),
    pytest.param(
        "feature_map: {C: 1}", [r"axes of a feature map are C, L, or .*:1"], id="axes-missing"
    ),
    pytest.param(
        "feature_map: {C: 1, L: 2, H: 3}", [r"axes of a feature map are .*:1"], id="axes-mixed"
    ),
    pytest.param(
        "feature_map: {C: 1, D: 2, W: 3}", [r"axes of a feature map are .*:1"], id="axes-without-h"
    ),
    pytest.param(
        "feature_map: {H: 1, W: 2}", [r"feature_map\.C is missing .*:1"], id="axes-without-c"
    ),
    pytest.param(
        "feature_map: {C: 1, H: 2, W: 2, X: 2}",
        [r"unknown key 'feature_map\.X', .*:1"],
        id="axis-unknown",
    ),
    pytest.param(
        "feature_map: {C: 1, H: 2, W: null}",
        [r"feature_map\.W: .* found None .*:1"],
        id="axis-null",
    ),
    pytest.param(
        "feature_map: {C: 1, H: 2, other: 2}",
        [r"unknown key 'feature_map\.other', .*:1"],
        id="axis-other",
    ),
    pytest.param(
        "feature_map: [1, 2, 2]\nflatten: HW",
        [r"flatten: not an order of the axes C, H, W, as CHW, found 'HW' .*:2"],
        id="axis-left-out",
    ),
    pytest.param(
        "feature_map: [1, 2, 2]\nflatten: HHWC", [r"flatten: not an order .*:2"], id="axis-doubled"
    ),
    pytest.param(
        "feature_map: [1, 2, 2]\nflatten: HHC", [r"flatten: not an order .*:2"], id="axis-instead"
    ),
    pytest.param(
        "feature_map: [1, 2, 2]\nflatten: hwc", [r"flatten: not an order .*:2"], id="lower-case"
    ),
    pytest.param(
        "feature_map: [1, 2, 2]\nflatten: ''", [r"flatten: not an order .*:2"], id="order-empty"
    ),
    pytest.param(
        "feature_map: [1, 2, 2]\nflatten: null", [r"flatten: .* found None .*:2"], id="order-null"
    ),
    pytest.param(
        "feature_map: [1, 2, 2]\nflatten: [H, W, C]",
        [r"flatten: .* string, found \['H'.*:2"],
        id="order-list",
    ),
    pytest.param(
        "feature_map: [1, 2, 2]\ndense: []",
        [r"dense: has too few entries, found \[\] .*:2"],
        id="dense-empty",
    ),
    pytest.param(
        "feature_map: [1, 2, 2]\ndense: fc",
        [r"dense: .* list in brackets, found 'fc' .*:2"],
        id="dense-text",
    ),
    pytest.param(
        "feature_map: [1, 2, 2]\ndense: null", [r"dense: .* found None .*:2"], id="dense-null"
    ),
    pytest.param(
        "feature_map: [1, 2, 2]\ndense: [0]",
        [r"dense\.0: .* string, found 0 .*:2"],
        id="dense-number",
    ),
    pytest.param(
        "feature_map: [1, 2, 2]\ndense: ['']",
        [r"dense\.0: .* at least 1 character.*:2"],
        id="dense-no-name",
    ),
    pytest.param(
        "feature_map: [1, 2, 2]\ndense: [{reads: map}]",
        [r"dense\.0\.name is missing .*:2"],
        id="dense-nameless",
    ),
    pytest.param(
        "feature_map: [1, 2, 2]\ndense:\n- name: a\n  reads: maps",
        [r"dense\.0\.reads: should be 'map' or 'dense', found 'maps' .*:4"],
        id="reads-other",
    ),
    pytest.param(
        "feature_map: [1, 2, 2]\ndense: [{name: a, reads: null}]",
        [r"dense\.0\.reads: .*:2"],
        id="reads-null",
    ),
    pytest.param(
        "feature_map: [1, 2, 2]\ndense: [{name: a, mapping: 1}]",
        [r"unknown key 'dense\.0\.mapping', .*:2"],
        id="dense-mapping",
    ),
    pytest.param("heads: []", [r"heads: has too few entries, found \[\] .*:1"], id="heads-empty"),
    pytest.param("heads: null", [r"heads: .* found None .*:1"], id="heads-null"),
    pytest.param(
        "heads: [3]", [r"heads\.0: should be a mapping of keys, found 3 .*:1"], id="head-number"
    ),
    pytest.param(
        "heads:\n- dense: [a]", [r"heads\.0\.feature_map is missing .*:2"], id="head-without-map"
    ),
    pytest.param(
        "heads:\n- feature_map: [1, 2]\n  layout: torch",
        [r"unknown key 'heads\.0\.layout', .*:3"],
        id="layout-in-a-head",
    ),
    pytest.param(
        "heads:\n- feature_map: [1, 2]\nfeature_map: [1, 2]",
        [r"^feature_map: belongs in `heads` .*:3"],
        id="heads-beside-feature-map",
    ),
    pytest.param(
        "heads:\n- feature_map: [1, 2]\nflatten: CL\ndense: [a]",
        [r"^flatten, dense: belongs in `heads` .*:3"],
        id="heads-beside-flatten-and-dense",
    ),
    pytest.param(
        "feature_map: [1, 2, 2]\nversion: 2", [r"version: should be 1, found 2 .*:2"], id="version"
    ),
    pytest.param(
        "feature_map: [1, 2, 2]\nversion: '1'",
        [r"version: should be 1, found '1' .*:2"],
        id="version-text",
    ),
    pytest.param(
        "feature_map: [1, 2, 2]\nversion: true",
        [r"version: should be 1, found True .*:2"],
        id="version-true",
    ),
    pytest.param(
        "feature_map: [1, 2, 2]\nlayout: caffe",
        [r"layout: should be .*found 'caffe' .*:2"],
        id="layout",
    ),
    pytest.param(
        "feature_map: [1, 2, 2]\nstate_dict: ''", [r"state_dict: .*:2"], id="state-dict-empty"
    ),
    pytest.param(
        "feature_map: [1, 2, 2]\nstate_dict: 3",
        [r"state_dict: .* string, found 3 .*:2"],
        id="state-dict-number",
    ),
    pytest.param("feature_map: [1, 2, 2]\nrename: [a, b]", [r"rename: .*:2"], id="rename-list"),
    pytest.param(
        "feature_map: [1, 2, 2]\nrename: null", [r"rename: .* found None .*:2"], id="rename-null"
    ),
    pytest.param(
        "feature_map: [1, 2, 2]\nrename:\n  a: b\n  c: 0",
        [r"rename\.c: .* string, found 0 .*:4"],
        id="rename-number",
    ),
    pytest.param(
        "feature_map: [1, 2, 2]\nrename:\n  a: b\n  other: 5",
        [r"rename\.other: .* found 5 .*:4"],
        id="rename-other",
    ),
    pytest.param(
        "feature_map: [1, 2, 2]\nrename:\n  '': a",
        [r"rename\.: .* at least 1 character.*:3"],
        id="rename-empty",
    ),
    pytest.param("feature_map: [1, 2, 2]\nother: 5", [r"unknown key 'other', .*:2"], id="other"),
    pytest.param(
        "feature_map: [1, 2, 2]\nmapping: 5", [r"unknown key 'mapping', .*:2"], id="mapping"
    ),
    pytest.param("feature_map: [1, 2, 2]\n<<: {a: 1}", [r"unknown key '<<', .*:2"], id="merge-key"),
]

YAML_CASES = [
    pytest.param("", r"^the file is empty \(spec\.yaml:1\)$", id="empty"),
    pytest.param("# nothing\n\n", r"^the file is empty", id="comments-only"),
    pytest.param("a: [1, 2", r"^not valid YAML: .*\(spec\.yaml:1\)$", id="unclosed"),
    pytest.param("feature_map: [1, 2]\n b: 3\n", r"^not valid YAML: .*:\d\)$", id="indent"),
    pytest.param("a:\n\t- 1", r"^not valid YAML: .*\(spec\.yaml:2\)$", id="tab"),
    pytest.param("a: 1\n---\nb: 2", r"another document \(spec\.yaml:2\)$", id="documents"),
    pytest.param("a: \x00", r"^not valid YAML: .*special characters", id="nul"),
    pytest.param(
        "feature_map: &a [1, 2]\nx: *a", r"^anchors and aliases .*\(spec\.yaml:1\)$", id="alias"
    ),
    pytest.param("feature_map: &a [1, 2]", r"^anchors and aliases", id="anchor-alone"),
    pytest.param(
        "feature_map: [1, 2]\nfeature_map: [3, 4]",
        r"^duplicate key 'feature_map' \(spec\.yaml:2\)$",
        id="duplicate",
    ),
    pytest.param(
        "feature_map: [1, 2]\nrename:\n  a: b\n  'a': c",
        r"^duplicate key 'a' \(spec\.yaml:4\)$",
        id="duplicate-inside",
    ),
    pytest.param(
        "feature_map: [1, 2]\n? [a]\n: 3", r"^a key is not plain text .*:2\)$", id="list-as-key"
    ),
    pytest.param(
        "feature_map: !!python/object/apply:os.system [ls]",
        r"^tag tag:yaml\.org,2002:python/object/apply:os\.system is not allowed .*:1\)",
        id="python-tag",
    ),
    pytest.param("feature_map: !mine [1, 2]", r"^tag !mine is not allowed", id="own-tag"),
    pytest.param("feature_map: [!!int '1', 2]", r"^tag .*:int is not allowed", id="int-tag"),
    pytest.param(
        "feature_map: [1, 2]\nversion: !!bool maybe", r"^tag .*:bool is not allowed", id="bool-tag"
    ),
    pytest.param("feature_map: !!map [1, 2]", r"^tag .*:map is not allowed", id="tag-of-another"),
    pytest.param("feature_map: [! '1', 2]", r"^tag ! is not allowed", id="tag-of-no-name"),
    pytest.param(
        "%YAML 1.1\n---\nfeature_map: [1:30, 2]",
        r"^a spec is YAML 1.2, and no other version \(spec\.yaml:2\)$",
        id="yaml-1.1",
    ),
    pytest.param(
        f"feature_map: [0x{'f' * 9000}, 2]",
        r"^not valid YAML: .*4300 digits.* \(spec\.yaml:1\)$",
        id="hexadecimals-of-9000-digits",
    ),
    pytest.param("feature_map: !!set {1, 2}", r"^tag .*set is not allowed", id="set"),
    pytest.param("feature_map: [1, 2]\nversion: 2020-01-01", r"version|tag .*timestamp", id="date"),
    pytest.param(
        f"version: 1\nfeature_map: [{'9' * 5000}, 2]",
        r"^not valid YAML: .*\(spec\.yaml:2\)$",
        id="number-of-5000-digits",
    ),
    pytest.param(
        '"\\e[31m": 1\nfeature_map: [1, 2]', r"^unknown key '\\+x1b\[31m'", id="terminal-escape"
    ),
]

RAW: dict[str, tuple[bytes, str]] = {
    "not-utf8": (b"feature_map: [1, 2]\nstate_dict: \xff\n", "is not UTF-8"),
    "utf16": ("feature_map: [1, 2]".encode("utf-16"), "is not UTF-8"),
    "empty": (b"", "the file is empty"),
    "blank": (b"\n \n", "the file is empty"),
    "too-large": (b"#" * 300_000, "more than any spec"),
    "billion-laughs": (
        b"a: &a [x, x]\n"
        + b"".join(b"%c: &%c [*%c, *%c]\n" % (c + 1, c + 1, c, c) for c in range(97, 121)),
        "anchors and aliases",
    ),
    "recursive-alias": (b"feature_map: &a [*a]", "anchors and aliases"),
    "nested-lists": (b"feature_map: " + b"[" * 100_000, "not valid YAML|nested"),
    "nested-mappings": (b"{a: " * 30_000, "not valid YAML|nested"),
    "nested-blocks": (b"".join(b" " * n + b"a:\n" for n in range(600)), "not valid YAML|nested|"),
    "list-of-many": (
        b"feature_map: [1, 2]\ndense: [" + b"a," * 2_000 + b"]",
        "^dense: .* at most 1000 items",
    ),
    "list-of-very-many": (
        b"feature_map: [1, 2]\ndense: [" + b"a," * 60_000 + b"]",
        "^the file has more than 20000 keys and values .*:2",
    ),
    "keys-of-one-letter": (
        b"feature_map: [1, 2]\nrename:" + b"\n a:" * 30_000,
        "^the file has more than 20000 keys and values .*:10000",
    ),
    "many-heads": (b"heads:\n" + b"- {feature_map: [1, 2]}\n" * 2000, "^heads: .* at most 100 it"),
    "a-binary": (bytes(range(256)) * 100, "is not UTF-8"),
    "merge-bomb": (b"feature_map: [1, 2]\n<<: " + b"[{}, {}]" * 2, "not valid YAML"),
    "key-of-a-megabyte": (
        b"feature_map: [1, 2]\n? " + b"x" * 120_000 + b"\n: 1\n",
        "unknown key 'xxx",
    ),
}
"""Whole files, for what is not said about a key."""
