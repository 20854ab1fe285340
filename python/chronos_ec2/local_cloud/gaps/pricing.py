"""The Price List API: GetProducts.

Real AWS: the service answers in us-east-1, eu-central-1 and ap-south-1 for every region's prices. Filters
are attributes (or `productFamily`) that a product must have; each product comes as JSON inside a string,
prices are text with ten decimals, and most products have no product family. A page holds 100 products. moto
does not know the service. Here it has the list prices of us-east-1 that the project asks for, and some that
must not be taken for them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

PRICE_LIST_FILE: Final = Path(__file__).parents[1] / "image" / "price_list.json"
TARGET: Final = "AWSPriceListService."
PAGE: Final = 100
_TERM: Final = "JRTCKXETXF"
_RATE: Final = "6YS6EN2CT7"
_REGION: Final = {
    "regionCode": "us-east-1",
    "location": "US East (N. Virginia)",
    "locationType": "AWS Region",
}

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Refusal(ValueError):
    """A request that the service answers with an error: its code, then its message."""


class PriceListService:
    """Answers GetProducts itself and passes everything else on."""

    def __init__(self, application: Wsgi) -> None:
        self._application = application

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        target = str(environ.get("HTTP_X_AMZ_TARGET", ""))
        if not target.startswith(TARGET):
            return self._application(environ, start_response)
        request = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        try:
            if target != f"{TARGET}GetProducts":
                raise Refusal("InvalidParameterException", f"{target} is not served here")
            status, answer = "200 OK", get_products(json.loads(request))
        except Refusal as refusal:
            status, answer = "400 Bad Request", {"__type": refusal.args[0], "Message": refusal.args[1]}
        body = json.dumps(answer).encode()
        headers = [("Content-Type", "application/x-amz-json-1.1"), ("Content-Length", str(len(body)))]
        start_response(status, headers)
        return [body]


def get_products(request: dict[str, Any]) -> dict[str, Any]:
    """The service's answer to a request.

    Raises:
        Refusal: it would answer with an error.
    """
    for wanted in request.get("Filters", []):
        if wanted["Type"] not in ("TERM_MATCH", "EQUALS"):
            raise Refusal("InvalidParameterException", f"filter type {wanted['Type']} is not served here")
    found = list(_products(request.get("ServiceCode"), request.get("Filters", [])))
    try:
        start = int(request.get("NextToken", 0))
    except ValueError as error:
        raise Refusal("InvalidNextTokenException", "the token is none that was handed out") from error
    end = start + min(int(request.get("MaxResults", PAGE)), PAGE)
    more = {"NextToken": str(end)} if end < len(found) else {}
    return {"FormatVersion": "aws_v1", "PriceList": found[start:end], **more}


def _products(service: object, filters: list[dict[str, str]]) -> Iterator[str]:
    book = json.loads(PRICE_LIST_FILE.read_text())
    for code, family, usage, unit, usd, more in book["products"]:
        attributes = {"servicecode": code, "usagetype": usage, **_REGION, **more}
        searched = {**attributes, "ServiceCode": code, "productFamily": family}
        if code != service or any(searched.get(item["Field"]) != item["Value"] for item in filters):
            continue
        yield json.dumps(_document(book, code, family, attributes, unit, usd))


def _document(
    book: dict[str, Any], code: str, family: str | None, attributes: dict[str, str], unit: str, usd: float
) -> dict[str, Any]:
    sku = hashlib.sha256(json.dumps(attributes).encode()).hexdigest()[:16].upper()
    rate = {
        "rateCode": f"{sku}.{_TERM}.{_RATE}",
        "description": f"${usd} per {unit} of {attributes['usagetype']}",
        "beginRange": "0",
        "endRange": "Inf",
        "unit": unit,
        "pricePerUnit": {"USD": f"{usd:.10f}"},
        "appliesTo": [],
    }
    term = {
        "sku": sku,
        "offerTermCode": _TERM,
        "effectiveDate": "2026-09-01T00:00:00Z",
        "priceDimensions": {rate["rateCode"]: rate},
        "termAttributes": {},
    }
    named = {"productFamily": family} if family else {}
    return {
        "product": {"sku": sku, **named, "attributes": attributes},
        "serviceCode": code,
        "terms": {"OnDemand": {f"{sku}.{_TERM}": term}},
        "version": book["version"],
        "publicationDate": book["publicationDate"],
    }
