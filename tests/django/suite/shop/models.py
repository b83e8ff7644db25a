from django.db import models


class Order(models.Model):
    number = models.CharField(max_length=50, unique=True)
    state = models.CharField(max_length=20, default="new")
    total = models.IntegerField(default=0)

    def __str__(self):
        return self.number
