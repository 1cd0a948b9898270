"""The caller, as the API shows them."""

from pydantic import BaseModel

from serve_app.core.domain.callers import Role
from serve_app.core.domain.ids import OrgId, UserId


class OrganisationOut(BaseModel):
    id: OrgId
    name: str


class UserOut(BaseModel):
    id: UserId
    email: str


class MeOut(BaseModel):
    organisation: OrganisationOut
    user: UserOut
    role: Role
