from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('clusters', '0009_providers'),
    ]

    operations = [
        migrations.AddField(
            model_name='cluster',
            name='address_count',
            field=models.PositiveSmallIntegerField(blank=True, editable=False, null=True),
        ),
        migrations.AddField(
            model_name='cluster',
            name='discovery',
            field=models.CharField(choices=[('never', 'Never'), ('empty', 'While it has none'), ('always', 'Always')], default='empty', help_text="By an own cluster's list. Always: what is new is added, what vanished gets no traffic; a model that is disabled below stays so.", max_length=8, verbose_name='discover models'),
        ),
        migrations.AddField(
            model_name='cluster',
            name='expands_addresses',
            field=models.BooleanField(default=False, help_text="Each address of the endpoint's name is a server of its own, as behind a headless service of Kubernetes: requests are spread over them, each is probed. Not for those of a load balancer.", verbose_name='expand addresses'),
        ),
        migrations.AddField(
            model_name='cluster',
            name='healthy_address_count',
            field=models.PositiveSmallIntegerField(blank=True, editable=False, null=True),
        ),
        migrations.AddField(
            model_name='cluster',
            name='quick_look_count',
            field=models.PositiveSmallIntegerField(default=0, editable=False),
        ),
        migrations.AddField(
            model_name='cluster',
            name='traffic_avoided_until',
            field=models.DateTimeField(blank=True, editable=False, null=True),
        ),
        migrations.AddField(
            model_name='cluster',
            name='traffic_failed_at',
            field=models.DateTimeField(blank=True, editable=False, null=True),
        ),
        migrations.AddField(
            model_name='deployment',
            name='vanished_at',
            field=models.DateTimeField(blank=True, editable=False, null=True),
        ),
    ]
