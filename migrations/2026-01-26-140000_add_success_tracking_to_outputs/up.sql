-- The archive is there to learn which texts win grants. Status, dates and amounts are tied together, so that no report
-- meets an award without an amount or a decision before its submission.
ALTER TABLE outputs
    ADD COLUMN status outputstatus NOT NULL DEFAULT 'draft',
    ADD COLUMN funder_name text,
    ADD COLUMN requested_amount numeric(14, 2),
    ADD COLUMN awarded_amount numeric(14, 2),
    ADD COLUMN submitted_on date,
    ADD COLUMN decided_on date,
    ADD COLUMN success_notes text,
    ADD CONSTRAINT outputs_funder_name_present CHECK (btrim(funder_name) <> ''),
    ADD CONSTRAINT outputs_requested_amount_positive CHECK (requested_amount > 0 AND requested_amount <> 'NaN'),
    ADD CONSTRAINT outputs_awarded_amount_positive CHECK (awarded_amount > 0 AND awarded_amount <> 'NaN'),
    ADD CONSTRAINT outputs_submitted_unless_draft CHECK ((status <> 'draft') = (submitted_on IS NOT NULL)),
    ADD CONSTRAINT outputs_decided_when_closed CHECK (
        (status IN ('awarded', 'not_awarded')) = (decided_on IS NOT NULL)
    ),
    ADD CONSTRAINT outputs_amount_when_awarded CHECK ((status = 'awarded') = (awarded_amount IS NOT NULL)),
    ADD CONSTRAINT outputs_decided_after_submitted CHECK (decided_on >= submitted_on),
    ADD CONSTRAINT outputs_years_plausible CHECK (
        EXTRACT(YEAR FROM submitted_on) BETWEEN 2000 AND 2100 AND EXTRACT(YEAR FROM decided_on) BETWEEN 2000 AND 2100
    );

CREATE INDEX outputs_status_submitted_on_idx ON outputs (status, submitted_on);
CREATE INDEX outputs_lower_funder_name_idx ON outputs (lower(funder_name));

COMMENT ON COLUMN outputs.requested_amount IS 'In the currency that the organisation reports in.';
COMMENT ON COLUMN outputs.awarded_amount IS 'Set when status is awarded, and only then; may exceed the request.';
COMMENT ON COLUMN outputs.submitted_on IS 'Set in every status but draft.';
COMMENT ON COLUMN outputs.decided_on IS 'Set when status is awarded or not_awarded, and only then.';
