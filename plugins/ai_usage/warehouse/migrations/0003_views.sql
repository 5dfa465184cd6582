-- Lets a transform leave out the views that stand as they should.

alter table ops.dbt_run add column views_digest text;
comment on column ops.dbt_run.views_digest is
'Of a build that made every view: a digest of the dbt project and of the views as it left them. While both are the '
'same, transforms leave views out.';
