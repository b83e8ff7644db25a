"""What the HTTP API answers: Structs that describe it in the OpenAPI document, one file for each subject.

The answers themselves are made by `documents.py`. Tests hold each answer against its Struct.
"""
