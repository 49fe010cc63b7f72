"""Files that are not a checkpoint known here, by how they begin."""

from __future__ import annotations

import io
import pickle
import zipfile
import zlib


def packed(*names: str) -> bytes:
    """A zip file of files by these names."""
    with zipfile.ZipFile(stream := io.BytesIO(), "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return stream.getvalue()


FOREIGN = {
    "gzip": (b"\x1f\x8b\x08\0", "is compressed with gzip: unpack it first"),
    "zlib": (zlib.compress(bytes(range(64)), 3), "is compressed with zlib, as joblib does"),
    "xz": (b"\xfd7zXZ\0\0", "is compressed with xz"),
    "zstd": (b"\x28\xb5\x2f\xfd\0", "is compressed with zstd"),
    "bzip2": (b"BZh91AY", "is compressed with bzip2"),
    "page": (b"\n<!DOCTYPE html>\n<html>", "is a web page: the download got a page"),
    "page-html": (b"<html lang=en>", "is a web page"),
    "xml": (b"<?xml version='1.0'?><Error>", "is XML"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid", "is a Git LFS pointer"),
    "gguf": (b"GGUF\x03\0\0\0", "is a GGUF or GGML file"),
    "onnx": (b"\x08\x07\x12\x07pytorch\x1a\x051.9.0", "is an ONNX model"),
    "core-ml": (
        b"\x08\x01\x12\xc3\x03\x0a\x0d\x0a\x07context\x1a\x02\x12\0\x0a\x0a\x0a\x04item",
        "is a Core ML model",
    ),
    "core-ml-4": (b"\x08\x04\x12\x7a\x0a\x36\x0a\x05image\x12\x09An image", "is a Core ML model"),
    "onnx-pytorch": (b"\x08\x06\x12\x07pytorch\x1a\x031.9:\xe8\xf6\x0a\x0a", "is an ONNX model"),
    "tflite": (b"\x1c\0\0\0TFL3\x14\0", "is a TensorFlow Lite model"),
    "saved-model": (b"\x08\x01\x12\xcb\x05", "is a TensorFlow SavedModel"),
    "graph": (b"\x0a\x1a\x0a\x05input\x12\x0bPlaceholder", "is a frozen graph of TensorFlow"),
    "flax": (b"\x81\xa6params\x81\xa7Dense_0", "is msgpack, as Flax writes it"),
    "flax-state": (b"\x83\xa4step\x00\xa6params", "is msgpack, as Flax writes it"),
    "caffe": (b"\x0a\x05LeNet\xa2\x06\x50\x0a\x05mnist", "is a Caffe model"),
    "caffe-v1": (b"\x0a\x07AlexNet\x12\xa6\x01\x0a\x04data", "is a Caffe model"),
    "tf-meta": (b"\x0a\xba\x45\x12\x97\x45\x0a\x2c\x0a\x03Abs", "is the graph of a checkpoint"),
    "pdmodel": (
        b"\x0a\xe2\x88\x68\x08\0\x10" + b"\xff" * 9 + b"\x01\x1a\x24",
        "is a model that Paddle exported for inference",
    ),
    "pdiparams": (
        bytes(16) + b"\x04\0\0\0\x08\x05\x10\x20\x68\xa9",
        "is a model that Paddle exported for inference",
    ),
    "binary": (
        b"\x21\x43\0\0\0\0\0\0\xcd\xcc\x4c\x3e" * 9,
        r"is not a checkpoint known here \(it starts",
    ),
    "tf-index": (b"\0\0\0\0" + bytes.fromhex("57fb808b247547db"), "is a checkpoint of TensorFlow"),
    "tf-names": (b'model_checkpoint_path: "m.ckpt"', "names a checkpoint of TensorFlow"),
    "matlab": (b"MATLAB 5.0 MAT-file, Platform", "is a MATLAB file"),
    "mxnet": (b"\x12\x01" + bytes(14) + b"\x02", "is a parameter file of MXNet"),
    "darknet": (bytes([0, 0, 0, 0, 2, 0, 0, 0, 5, 0, 0, 0]), "is a weight file of Darknet"),
    "program": (b"\x7fELF\x02\x01", "is a program or a library"),
    "zeros": (bytes(100), "nothing but zeros"),
    "empty": (b"", "is empty: it was probably not written"),
    "text-whose-ninth-letter-is-blank": (b"the file was not found", "not a checkpoint known here"),
    "text": (b"hello world\n", "is not a checkpoint known here \\(a text that starts with"),
    "json": (b'{"a": 1}', "is JSON without a `weight_map`"),
    "other-zip": (b"PK\x05\x06" + bytes(18), "is a zip file without data.pkl.*it is empty"),
    "zip-of-checkpoints": (
        packed("notes.txt", "policy.pth"),
        "unpack it, and convert the one with the weights: 'policy.pth'$",
    ),
    "zip-of-pictures": (packed("a.png"), "if a checkpoint is inside it, unpack it first"),
    "pickled-keras": (
        b"\x80\x02ckeras.src.saving.pickle_utils\ndeserialize_model_from_bytecode\n(tR.",
        r"a pickled Keras model, which model\.save\('model\.keras'\) saves",
    ),
    "list": (
        pickle.dumps([1, 2]),
        r"only \(the whole file\), a list of 2 entries, which have no names; save a dictionary",
    ),
}
