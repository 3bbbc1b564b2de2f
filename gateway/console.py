"""The admin site: Django's, under Tollgate's name."""

from django.contrib.admin import AdminSite


class TollgateAdminSite(AdminSite):
    site_title = "Tollgate"
    site_header = "Tollgate"
    index_title = "Console"
