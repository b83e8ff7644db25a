"""A long task for a page to follow: it tells how far it is, and can be cancelled."""

import logging
import time

from celeriac import shared_task
from stock.models import PriceList, Product

BATCH = 10
logger = logging.getLogger(__name__)


@shared_task(bind=True)
def import_prices(self, prices: PriceList) -> str:
    """Import a list of prices. A mistake in it changes nothing; who cancels it keeps the batches that were saved."""
    products = prices.products()
    for done in range(0, len(products), BATCH):
        self.progress(done, len(products))
        Product.objects.bulk_create(
            products[done : done + BATCH], update_conflicts=True, unique_fields=["name"], update_fields=["price"]
        )
        time.sleep(0.2)  # so that there is something to see
    logger.info("%d prices were imported", len(products))
    return f"{len(products)} prices were imported"
